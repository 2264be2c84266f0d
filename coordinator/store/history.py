"""Questions that people ask: jobs with their timelines, instances by name."""

from typing import Final, NamedTuple

import sqlalchemy as sa

from coordinator.domain.instance import Instance
from coordinator.domain.job import Job, JobStatus
from coordinator.domain.timeline import Entry
from coordinator.store import timelines
from coordinator.store.database import Database
from coordinator.store.rolls import ALIVE
from coordinator.store.rows import to_instance, to_job
from coordinator.store.schema import instances, jobs


class System(NamedTuple):
    """What a machine says of itself."""

    name: str = ""
    version: str = ""


class History:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def jobs(self, *, completed: bool) -> list[Job]:
        """By queue time; without the completed ones unless asked."""
        query = sa.select(jobs).order_by(jobs.c.queued_at, jobs.c.id)
        if not completed:
            query = query.where(jobs.c.status != JobStatus.COMPLETED)
        async with self._database.read() as connection:
            return [to_job(row) for row in await connection.execute(query)]

    async def job(self, job_id: str) -> Job | None:
        """By Hostler's id or the forge's; the newest where several have it."""
        return next(iter(await self.jobs_called(job_id)), None)

    async def jobs_called(self, job_id: str) -> list[Job]:
        """By Hostler's id or the forge's: the newest attempt for each entity that speaks of it, the newest first."""
        mine = jobs.c.id == job_id
        if job_id.isdecimal() and len(job_id) < 19:
            mine |= jobs.c.forge_job_id == int(job_id)
        query = sa.select(jobs).where(mine).order_by(jobs.c.queued_at.desc(), jobs.c.id)
        async with self._database.read() as connection:
            found = [to_job(row) for row in await connection.execute(query)]
        newest: dict[str, Job] = {}
        for job in found:
            newest.setdefault(job.entity_id, job)
        return list(newest.values())

    async def timeline(self, job: Job) -> list[Entry]:
        async with self._database.read() as connection:
            return await timelines.of(connection, job.id, job.instance_id)

    async def of_instance(self, instance_id: str) -> list[Entry]:
        async with self._database.read() as connection:
            return await timelines.of_instance(connection, instance_id)

    async def instance(self, name_or_id: str) -> Instance | None:
        mine = (instances.c.id == name_or_id) | (instances.c.name == name_or_id)
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(instances).where(mine))).first()
        return to_instance(row) if row else None

    async def systems(self) -> dict[str, System]:
        """Of the machines that there are and that have said it, by their instances' ids."""
        query = _SYSTEM.where(instances.c.status.in_(ALIVE), instances.c.os_name != "")
        async with self._database.read() as connection:
            return {row.id: System(row.os_name, row.os_version) for row in await connection.execute(query)}

    async def system(self, instance_id: str) -> System:
        async with self._database.read() as connection:
            row = (await connection.execute(_SYSTEM.where(instances.c.id == instance_id))).first()
        return System(row.os_name, row.os_version) if row else System()


_SYSTEM: Final = sa.select(instances.c.id, instances.c.os_name, instances.c.os_version)
