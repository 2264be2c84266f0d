"""The planner's snapshot out of the database, and its plan into it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.changes import Step
from coordinator.domain.fleet import Admission, Host, Pool
from coordinator.domain.images import Held
from coordinator.domain.instance import BOOTING, COMING, Instance, RunnerStatus, Status
from coordinator.domain.job import Job, JobStatus
from coordinator.domain.planning.board import Board
from coordinator.domain.timeline import Entry
from coordinator.domain.world import Create, Plan, Policy, World
from coordinator.store import changed, images, instance_rows, timelines
from coordinator.store.batch import in_parts
from coordinator.store.changed import Changes
from coordinator.store.database import Database
from coordinator.store.feed import Feed
from coordinator.store.lease import Lease
from coordinator.store.retrying import retried
from coordinator.store.rows import POOL_QUERY, to_entity, to_host, to_job, to_pool
from coordinator.store.schema import REGISTERED, entities, hosts, instances, jobs, pools, timeline

_NAME_CHARACTERS = 12


class Planning:
    def __init__(
        self, database: Database, feed: Feed, lease: Lease, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._database = database
        self._feed = feed
        self._lease = lease
        self._clock = clock
        self._new_id = new_id

    async def world(self, clouds: Mapping[str, int], policy: Policy | None = None) -> World:
        """A consistent snapshot. `clouds`: configured providers, and how many instances each may make at once."""
        async with self._database.read() as connection:
            alive = await instance_rows.alive(connection)
            # After the instances, and not before: on PostgreSQL each statement sees what is committed when it begins.
            job_rows = await connection.execute(sa.select(jobs).where(jobs.c.status == JobStatus.QUEUED))
            return World(
                jobs=tuple(to_job(row) for row in job_rows),
                instances=tuple(alive),
                pools=tuple(to_pool(row) for row in await connection.execute(POOL_QUERY)),
                hosts=tuple(await _hosts(connection)),
                images=tuple(await images.catalogue(connection)),
                clouds=clouds,
                entities=tuple(to_entity(row) for row in await connection.execute(sa.select(entities))),
                policy=policy or Policy(),
            )

    async def tell(self, board: Board, changes: Changes) -> list[Instance]:
        """Bring a board up to date with the changed rows; returns the changed instances that are not deleted."""
        _put_jobs(board, changes.arrived.values())
        if not changes.to_read:
            return []
        async with self._database.read() as connection:
            if changes.catalog:
                for row in await connection.execute(sa.select(entities)):
                    board.put_entity(to_entity(row))
                _put_pools(board, [to_pool(row) for row in await connection.execute(POOL_QUERY)])
                board.put_images(await images.catalogue(connection))
            gone = set(changes.hosts)
            for part in in_parts(sorted(changes.hosts)):
                for host in await _hosts(connection, part):
                    board.put_host(host)
                    gone.discard(host.name)
            alive: list[Instance] = []
            for part in in_parts(sorted(changes.instances)):
                alive += await instance_rows.by_ids(connection, part, lock=False)
            # What is read is newer than what was told: a runner may have a job that waits by what is known. Another
            # machine would be made for it, or for one that is alike.
            taken = {one.job_id for one in alive if board.waits(one.job_id)}
            for part in in_parts(sorted(changes.jobs | taken)):
                found = [to_job(row) for row in await connection.execute(sa.select(jobs).where(jobs.c.id.in_(part)))]
                _put_jobs(board, found)
                for job_id in set(part) - {job.id for job in found}:
                    board.drop_job(job_id)
        for instance in alive:
            board.put_instance(instance)
        for name in gone:
            board.drop_host(name)
        return [instance for instance in alive if instance.status is not Status.DELETED]

    @retried
    async def registered_since(self, since: datetime) -> list[tuple[str, datetime]]:
        """With which credentials runners were registered, and when.

        A call that is without an answer may have been made just now.
        """
        lately = sa.select(timeline.c.instance_id, timeline.c.at).where(REGISTERED, timeline.c.at > since).subquery()
        configured = (
            sa.select(entities.c.credentials_id, lately.c.at)
            .join(instances, instances.c.entity_id == entities.c.id)
            .join(lately, lately.c.instance_id == instances.c.id)
        )
        asked = (
            sa.select(entities.c.credentials_id)
            .join(instances, instances.c.entity_id == entities.c.id)
            .where(instances.c.status.in_(COMING), instances.c.runner_status.in_(BOOTING))
            .where(instances.c.forge_runner_id == 0)
        )
        async with self._database.read() as connection:
            known = [(row.credentials_id, row.at) for row in await connection.execute(configured)]
            unknown = [(row.credentials_id, self._clock()) for row in await connection.execute(asked)]
        return known + unknown

    async def commit(self, plan: Plan) -> list[Instance]:
        """Write the plan's creates; those whose ground has gone meanwhile are left out.

        One transaction holds thousands of them; where there are more, several do.

        Returns the instances that now are to be made. What was left out is told as changed, with the ground that it
        stood on, so that a planner whose knowledge is out of step reads it and thinks it over again.

        Raises:
            LeaseLost: it is not for this process to plan. Nothing was written, or the first transactions of several:
                whoever plans next finds in the database what they wrote.
        """
        return [instance for part in in_parts(plan.creates) for instance in await self._commit(part)]

    @retried
    async def _commit(self, creates: Sequence[Create]) -> list[Instance]:
        now = self._clock()
        made, entries = await self._database.at_once(lambda connection: self._write(connection, creates, now))
        self._feed.publish(entries)
        return made

    def _write(
        self, connection: sa.Connection, planned: Sequence[Create], now: datetime
    ) -> tuple[list[Instance], list[Entry]]:
        self._lease.check(connection)
        creates = _still_right(connection, planned, changed.of(connection))
        made = [self._instance(create, now) for create in creates]
        entries = [
            Entry(Step.PLANNED, now, create.for_job, instance.id, f"{create.pool.name} on {_place(instance)}")
            for create, instance in zip(creates, made, strict=True)
        ]
        instance_rows.insert(connection, made)
        timelines.append(connection, entries)
        return made, entries

    def _instance(self, create: Create, now: datetime) -> Instance:
        pool = create.pool
        instance_id = self._new_id()
        # GARM's form of a name: the pool's prefix and twelve characters.
        name = f"{pool.runner_prefix}-{instance_id.replace('-', '')[-_NAME_CHARACTERS:]}"
        return Instance(
            id=instance_id,
            name=name,
            pool_id=pool.id,
            entity_id=pool.entity_id,
            provider=pool.provider,
            host=create.host,
            image=pool.image,
            resources=pool.resources,
            labels=pool.labels,
            status=Status.PENDING_CREATE,
            runner_status=RunnerStatus.PENDING,
            generation=1,
            created_at=now,
            changed_at=now,
            bootstrap_deadline=now + max(pool.bootstrap_timeout, timedelta(minutes=1)),
            pool_generation=pool.generation,
            for_job=create.for_job,
        )


async def _hosts(connection: AsyncConnection, names: Sequence[str] | None = None) -> list[Host]:
    query = sa.select(hosts) if names is None else sa.select(hosts).where(hosts.c.name.in_(names))
    held = await images.held_by(connection, names)
    return [to_host(row, held.get(row.name, Held())) for row in await connection.execute(query)]


def _put_jobs(board: Board, changed: Iterable[Job]) -> None:
    for job in changed:
        if job.status is JobStatus.QUEUED:
            board.put_job(job)
        else:
            board.drop_job(job.id)


def _put_pools(board: Board, declared: Sequence[Pool]) -> None:
    for pool in declared:
        board.put_pool(pool)
    # A board forgets none: until everything is read anew, what was removed makes no machine.
    for gone in board.pools.keys() - {pool.id for pool in declared}:
        board.put_pool(msgspec.structs.replace(board.pools[gone], enabled=False, min_idle=0))


def _place(instance: Instance) -> str:
    return instance.host or instance.provider


def _still_right(connection: sa.Connection, creates: Sequence[Create], told: Changes) -> list[Create]:
    """The creates whose ground still holds.

    Their jobs, if they are for one, are still queued, their pools still enabled and have room, their hosts still there
    and open. What hinders the others is noted in `told`.
    """
    job_ids = {create.for_job for create in creates}
    pool_ids = {create.pool.id for create in creates}
    queued = set(
        connection.scalars(sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status == JobStatus.QUEUED))
    )
    locked = sa.select(pools.c.id, pools.c.max_runners, pools.c.enabled).where(pools.c.id.in_(pool_ids))
    rows = connection.execute(locked.order_by(pools.c.id).with_for_update())
    room = {row.id: row.max_runners if row.enabled else 0 for row in rows}
    counted = connection.execute(
        sa.select(instances.c.pool_id, sa.func.count().label("used"))
        .where(instances.c.pool_id.in_(pool_ids), instances.c.status != Status.DELETED)
        .group_by(instances.c.pool_id)
    )
    for row in counted:
        room[row.pool_id] -= row.used
    names = {create.host for create in creates if create.host}
    open_ = sa.select(hosts.c.name).where(hosts.c.name.in_(names), hosts.c.admission == Admission.OPEN)
    places = {"", *connection.scalars(open_.order_by(hosts.c.name).with_for_update(read=True))}
    right = []
    full: set[str] = set()
    for create in creates:
        if create.for_job and create.for_job not in queued:
            told.jobs.add(create.for_job)
        elif create.host not in places:
            told.hosts.add(create.host)
        elif room.get(create.pool.id, 0) > 0:
            room[create.pool.id] -= 1
            right.append(create)
        else:
            full.add(create.pool.id)
    if full:
        told.catalog = True
        theirs = instances.c.pool_id.in_(full) & (instances.c.status != Status.DELETED)
        told.instances.update(connection.scalars(sa.select(instances.c.id).where(theirs)))
    return right
