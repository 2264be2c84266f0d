"""How many there are of what, of one moment, for those who draw curves."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.fleet import Entity, Pool
from coordinator.domain.instance import Instance, Status
from coordinator.domain.job import JobStatus
from coordinator.store.database import Database
from coordinator.store.rows import POOL_QUERY, to_entity, to_instance, to_pool
from coordinator.store.schema import entities, hosts, instances, jobs, pools


class Jobs(msgspec.Struct, frozen=True):
    entity_id: str
    status: str
    count: int
    oldest: datetime  # when the first of them was queued


class Instances(msgspec.Struct, frozen=True):
    pool_id: str
    status: str
    runner_status: str
    count: int


class Hosts(msgspec.Struct, frozen=True):
    """Hosts that are alike, and what they have together."""

    arch: str
    connected: bool
    admission: str
    pressure: str  # code of what they are short of
    count: int
    vcpus: int
    memory_mib: int
    disk_gib: int


class Used(msgspec.Struct, frozen=True):
    """Promised to machines on hosts, together."""

    arch: str
    vcpus: int
    memory_mib: int
    disk_gib: int


class Counts(msgspec.Struct, frozen=True):
    jobs: Sequence[Jobs]  # that are not completed
    instances: Sequence[Instances]  # that are not deleted
    hosts: Sequence[Hosts]
    used: Sequence[Used]
    entities: Sequence[Entity]
    pools: Sequence[Pool]
    alive: Sequence[Instance]  # one by one, at most as many as were asked for


async def counted(database: Database, most_alive: int) -> Counts:
    async with database.read() as connection:
        return Counts(
            jobs=[Jobs(*row) for row in await connection.execute(_JOBS)],
            instances=[Instances(*row) for row in await connection.execute(_INSTANCES)],
            hosts=[Hosts(*row) for row in await connection.execute(_HOSTS)],
            used=[Used(*row) for row in await connection.execute(_USED)],
            entities=[to_entity(row) for row in await connection.execute(sa.select(entities))],
            pools=[to_pool(row) for row in await connection.execute(POOL_QUERY)],
            alive=await _alive(connection, most_alive),
        )


async def _alive(connection: AsyncConnection, most: int) -> list[Instance]:
    if not most:
        return []
    query = sa.select(instances).where(_IS_ALIVE).order_by(instances.c.created_at.desc()).limit(most)
    return [to_instance(row) for row in await connection.execute(query)]


def _sum(column: sa.Column[int]) -> Any:
    return sa.cast(sa.func.sum(column), sa.BigInteger)


_IS_ALIVE = instances.c.status != Status.DELETED
_JOBS = (
    sa.select(
        jobs.c.entity_id, jobs.c.status, sa.func.count(), sa.func.min(jobs.c.queued_at, type_=jobs.c.queued_at.type)
    )
    .where(jobs.c.status.in_([JobStatus.WAITING, JobStatus.QUEUED, JobStatus.IN_PROGRESS]))
    .group_by(jobs.c.entity_id, jobs.c.status)
)
_INSTANCES = (
    sa.select(instances.c.pool_id, instances.c.status, instances.c.runner_status, sa.func.count())
    .where(_IS_ALIVE)
    .group_by(instances.c.pool_id, instances.c.status, instances.c.runner_status)
)
_HOST = (hosts.c.arch, hosts.c.coordinator != "", hosts.c.admission, hosts.c.pressure_code)
_HOSTS = sa.select(
    *_HOST, sa.func.count(), _sum(hosts.c.vcpus), _sum(hosts.c.memory_mib), _sum(hosts.c.disk_gib)
).group_by(*_HOST)
_USED = (
    sa.select(pools.c.arch, _sum(instances.c.vcpus), _sum(instances.c.memory_mib), _sum(instances.c.disk_gib))
    .join(pools, pools.c.id == instances.c.pool_id)
    .where(_IS_ALIVE, instances.c.host != "")
    .group_by(pools.c.arch)
)
