"""Jobs with all that is known of their ways, for those who measure."""

from collections import defaultdict
from collections.abc import Collection

import msgspec
import sqlalchemy as sa

from coordinator.domain.changes import Step
from coordinator.domain.timeline import Entry
from coordinator.store.batch import in_parts
from coordinator.store.database import Database
from coordinator.store.schema import entities, instances, jobs, pools, timeline


class JobWay(msgspec.Struct, frozen=True):
    """A job, whose it is, the pool whose machine took it (empty: none), and the timelines of both, in no order."""

    job_id: str
    owner: str
    repository: str  # empty where the job is of an organization or enterprise
    pool: str
    conclusion: str
    entries: tuple[Entry, ...]

    @property
    def entity(self) -> str:
        return f"{self.owner}/{self.repository}" if self.repository else self.owner


async def of_jobs(database: Database, job_ids: Collection[str]) -> list[JobWay]:
    """Those that are still there."""
    found: list[JobWay] = []
    for part in in_parts(sorted(job_ids)):
        found += await _of(database, part)
    return found


async def _of(database: Database, job_ids: Collection[str]) -> list[JobWay]:
    query = (
        sa.select(
            jobs.c.id,
            jobs.c.instance_id,
            jobs.c.conclusion,
            entities.c.owner,
            entities.c.name,
            pools.c.name.label("pool"),
        )
        .join(entities, entities.c.id == jobs.c.entity_id)
        .outerjoin(instances, instances.c.id == jobs.c.instance_id)
        .outerjoin(pools, pools.c.id == instances.c.pool_id)
        .where(jobs.c.id.in_(job_ids))
    )
    async with database.read() as connection:
        rows = (await connection.execute(query)).all()
        machines = {row.instance_id for row in rows if row.instance_id}
        # Another instance may have been planned for a job's demand: its entries are not of this job's way.
        mine = timeline.c.job_id.in_(job_ids) & (timeline.c.instance_id == "")
        steps = (await connection.execute(sa.select(timeline).where(mine | timeline.c.instance_id.in_(machines)))).all()
    of_job: dict[str, list[Entry]] = defaultdict(list)
    of_machine: dict[str, list[Entry]] = defaultdict(list)
    for row in steps:
        entry = Entry(Step(row.step), row.at, row.job_id, row.instance_id, row.detail)
        (of_machine[row.instance_id] if row.instance_id else of_job[row.job_id]).append(entry)
    return [
        JobWay(
            row.id,
            row.owner,
            row.name,
            row.pool or "",
            row.conclusion,
            (*of_job[row.id], *(of_machine[row.instance_id] if row.instance_id else ())),
        )
        for row in rows
    ]
