"""Keeping with a job what became of the machines that were made for it.

Everywhere else jobs are locked before instances. Here the instance is locked already, so a job that is locked by
another transaction is not waited for (`nowait`): this one is rolled back and tried again.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain import tries
from coordinator.domain.instance import Instance
from coordinator.domain.job import Job, JobStatus
from coordinator.domain.labels import Labels, serve
from coordinator.store import changed
from coordinator.store.rows import to_job
from coordinator.store.schema import jobs

_LOOKED_AT: Final = 500  # of the waiting jobs, the oldest first
_FAILED: Final = sa.select(jobs).where(sa.text("tries > 0")).order_by(jobs.c.id)
"""In the words of their index: SQLite uses it for no others."""


async def failed(connection: AsyncConnection, instance: Instance, now: datetime, fault: str) -> None:
    """A machine came to nothing: count it for the job it was made for, if that still waits."""
    if not instance.for_job:
        return
    job = await _lock(connection, instance.for_job)
    if job is not None:
        await _save(connection, tries.failed(job, now, fault))


async def may_have_run(connection: AsyncConnection, instance: Instance, now: datetime) -> None:
    """An idle runner ended without a word: let the oldest job that it serves wait for the forge's."""
    query = sa.select(jobs).where(
        jobs.c.status == JobStatus.QUEUED, jobs.c.entity_id == instance.entity_id, jobs.c.retry_at.is_(None)
    )
    rows = await connection.execute(query.order_by(jobs.c.queued_at, jobs.c.id).limit(_LOOKED_AT))
    for seen in map(to_job, rows.all()):
        if not serve(instance.labels, seen.labels):
            continue
        job = await _lock(connection, seen.id)
        if job is not None and job.retry_at is None:
            await _save(connection, tries.may_have_run(job, now))
            return


async def forgive(connection: AsyncConnection, entity_ids: Collection[str], labels: Labels | None = None) -> None:
    """What came to nothing for these entities' waiting jobs is past: they are tried again now.

    Args:
        labels: of a pool that is well; only jobs that it serves are meant.
    """
    # Without a word of the status: SQLite would take the index that begins with it, and go through all that wait.
    rows = await connection.execute(_FAILED.where(jobs.c.entity_id.in_(entity_ids)))
    for seen in map(to_job, rows.all()):
        meant = seen.status is JobStatus.QUEUED and (labels is None or serve(labels, seen.labels))
        job = await _lock(connection, seen.id) if meant else None
        if job is not None:
            await _save(connection, tries.forgiven(job))


async def _lock(connection: AsyncConnection, job_id: str) -> Job | None:
    """The job, if it still waits."""
    query = sa.select(jobs).where(jobs.c.id == job_id, jobs.c.status == JobStatus.QUEUED)
    row = (await connection.execute(query.with_for_update(nowait=True))).first()
    return to_job(row) if row else None


async def _save(connection: AsyncConnection, job: Job) -> None:
    values = {"tries": job.tries, "retry_at": job.retry_at, "fault": job.fault}
    changed.of(connection).jobs.add(job.id)
    await connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(values))
