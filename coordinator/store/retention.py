"""What is old and over is deleted, a little at a time: jobs, instances, their timelines and consoles."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.job import JobStatus
from coordinator.store.database import Database
from coordinator.store.rolls import ALIVE
from coordinator.store.schema import consoles, instances, jobs, timeline

_BATCH: Final = 100
"""With their timelines some 700 rows, 20 ms of SQLite's only writer, for which webhooks wait."""

_LOOKED_UP: Final = 10_000
"""Candidates found by one reading of a table: jobs have no index by age, for every webhook would pay for it."""


_UNFINISHED: Final = tuple(status for status in JobStatus if status is not JobStatus.COMPLETED)
"""Nearly every row is completed: asked for by that, SQLite reads the index of the status instead of the ids."""


class Pruned(NamedTuple):
    jobs: int = 0
    instances: int = 0


class Retention:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._found: list[tuple[sa.Table, list[str]]] = []

    async def prune(self, keep: timedelta) -> Pruned | None:
        """Delete one batch of what ended before `keep`; None when there is no more.

        A job is kept while an instance that is not deleted runs it or was made for it, an instance for as long as
        the job that it ran. An entry of a timeline goes with the last of the two that it tells of.
        """
        before = self._clock() - keep
        if not self._found:
            self._found = await self._look_up(before)
        if not self._found:
            return None
        table, ids = self._found.pop()
        async with self._database.write() as connection:
            if table is jobs:
                return Pruned(jobs=await _prune_jobs(connection, ids, before))
            return Pruned(instances=await _prune_instances(connection, ids, before))

    async def _look_up(self, before: datetime) -> list[tuple[sa.Table, list[str]]]:
        """Batches of jobs, or of instances when there are no jobs: an instance waits for its job to go."""
        for table, where in ((jobs, _old_job(before)), (instances, _old_instance(before))):
            query = sa.select(table.c.id).where(where).limit(_LOOKED_UP)
            async with self._database.read() as connection:
                ids = sorted(await connection.scalars(query))
            if ids:
                return [(table, ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH)]
        return []


def _old_job(before: datetime) -> sa.ColumnElement[bool]:
    alive = instances.c.status.in_(ALIVE)
    needed = sa.select(instances.c.job_id).where(alive).union_all(sa.select(instances.c.for_job).where(alive))
    return jobs.c.status.not_in(_UNFINISHED) & (jobs.c.changed_at < before) & jobs.c.id.not_in(needed)


def _old_instance(before: datetime) -> sa.ColumnElement[bool]:
    ran = sa.exists().where(jobs.c.id == instances.c.job_id)
    return instances.c.status.not_in(ALIVE) & (instances.c.changed_at < before) & ~ran


async def forget_instances(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> int:
    """Delete a batch of those that are over, whatever their age, with all that is told of them; returns how many."""
    over = sa.select(instances.c.id).where(which, instances.c.status.not_in(ALIVE)).limit(_BATCH)
    return await _delete_instances(connection, list(await connection.scalars(over)))


async def forget_jobs(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> int:
    """Delete a batch of jobs, whatever their state, with all that is told of them alone; returns how many."""
    return await _delete_jobs(
        connection, list(await connection.scalars(sa.select(jobs.c.id).where(which).limit(_BATCH)))
    )


async def _prune_jobs(connection: AsyncConnection, ids: Sequence[str], before: datetime) -> int:
    # Asked again within the transaction: it may have been changed since it was looked up.
    gone = list(await connection.scalars(sa.select(jobs.c.id).where(jobs.c.id.in_(ids), _old_job(before))))
    return await _delete_jobs(connection, gone)


async def _delete_jobs(connection: AsyncConnection, gone: Sequence[str]) -> int:
    await connection.execute(sa.delete(jobs).where(jobs.c.id.in_(gone)))
    there = sa.exists().where(instances.c.id == timeline.c.instance_id)
    await connection.execute(sa.delete(timeline).where(timeline.c.job_id.in_(gone), ~there))
    return len(gone)


async def _prune_instances(connection: AsyncConnection, ids: Sequence[str], before: datetime) -> int:
    query = sa.select(instances.c.id).where(instances.c.id.in_(ids), _old_instance(before))
    return await _delete_instances(connection, list(await connection.scalars(query)))


async def _delete_instances(connection: AsyncConnection, gone: Sequence[str]) -> int:
    await connection.execute(sa.delete(consoles).where(consoles.c.instance_id.in_(gone)))
    await connection.execute(sa.delete(instances).where(instances.c.id.in_(gone)))
    there = sa.exists().where(jobs.c.id == timeline.c.job_id)
    await connection.execute(sa.delete(timeline).where(timeline.c.instance_id.in_(gone), ~there))
    return len(gone)
