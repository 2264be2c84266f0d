"""Who is to be looked for at forges and in clouds, and what is known of what they list."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from coordinator.domain.instance import Instance, Status
from coordinator.domain.job import Job, JobKey, JobStatus
from coordinator.store.database import Database
from coordinator.store.rows import to_instance, to_job
from coordinator.store.schema import instances, jobs

ALIVE: Final = tuple(status for status in Status if status is not Status.DELETED)
_OPEN: Final = tuple(status for status in JobStatus if status is not JobStatus.COMPLETED)
_PARAMETERS: Final = 5000


class Inhabited(NamedTuple):
    """Ids of entities and pools that have instances."""

    entities: frozenset[str]
    pools: frozenset[str]


class Rolls:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def inhabited(self, since: datetime) -> Inhabited:
        """Those that have an instance, or have had one since."""
        mine = instances.c.status.in_(ALIVE) | (instances.c.changed_at >= since)
        query = sa.select(instances.c.entity_id, instances.c.pool_id).where(mine).distinct()
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return Inhabited(frozenset(row.entity_id for row in rows), frozenset(row.pool_id for row in rows))

    async def of_entity(self, entity_id: str) -> list[Instance]:
        """Its instances that are not deleted."""
        return await self._read(instances.c.status.in_(ALIVE) & (instances.c.entity_id == entity_id))

    async def of_pool(self, pool_id: str) -> list[Instance]:
        """Its instances that are not deleted."""
        return await self._read(instances.c.status.in_(ALIVE) & (instances.c.pool_id == pool_id))

    async def named(self, names: Iterable[str]) -> list[Instance]:
        """Deleted or not."""
        wanted = sorted(names)
        found: list[Instance] = []
        for start in range(0, len(wanted), _PARAMETERS):
            found += await self._read(instances.c.name.in_(wanted[start : start + _PARAMETERS]))
        return found

    async def with_open_jobs(self) -> frozenset[str]:
        """Ids of entities that have a job which has not ended."""
        query = sa.select(jobs.c.entity_id).where(jobs.c.status.in_(_OPEN)).distinct()
        async with self._database.read() as connection:
            return frozenset((await connection.scalars(query)).all())

    async def open_jobs(self, entity_id: str, before: datetime, most: int) -> list[Job]:
        """An entity's jobs that have not ended and have not changed since `before`, the oldest of them first."""
        mine = jobs.c.status.in_(_OPEN) & (jobs.c.entity_id == entity_id) & (jobs.c.changed_at <= before)
        query = sa.select(jobs).where(mine).order_by(jobs.c.changed_at, jobs.c.id).limit(most)
        async with self._database.read() as connection:
            return [to_job(row) for row in await connection.execute(query)]

    async def statuses(self, keys: Iterable[JobKey]) -> dict[JobKey, JobStatus]:
        """How far the jobs are that are known of these."""
        wanted = list(keys)
        columns = (jobs.c.endpoint_id, jobs.c.forge_job_id, jobs.c.attempt, jobs.c.entity_id, jobs.c.status)
        found: dict[JobKey, JobStatus] = {}
        for start in range(0, len(wanted), _PARAMETERS):
            part = wanted[start : start + _PARAMETERS]
            endpoints = {key.endpoint_id for key in part}
            named = jobs.c.endpoint_id.in_(endpoints) & jobs.c.forge_job_id.in_([key.forge_job_id for key in part])
            async with self._database.read() as connection:
                for row in await connection.execute(sa.select(*columns).where(named)):
                    found[JobKey(*row[:4])] = JobStatus(row.status)
        return {key: found[key] for key in wanted if key in found}

    async def _read(self, where: sa.ColumnElement[Any]) -> list[Instance]:
        query = sa.select(instances).where(where).order_by(instances.c.created_at, instances.c.id)
        async with self._database.read() as connection:
            return [to_instance(row) for row in await connection.execute(query)]
