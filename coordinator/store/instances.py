"""What happens to instances after they are planned: phases, calls from their guests, what the forge gave them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain import changes
from coordinator.domain.changes import PHASE_STEP, Changed, Phase, Step
from coordinator.domain.instance import COMING, Instance, RunnerStatus, Status, advance, can, can_runner
from coordinator.domain.timeline import Entry
from coordinator.store import changed, cooldowns, instance_rows, timelines, tried
from coordinator.store.batch import Batcher
from coordinator.store.database import Database
from coordinator.store.feed import Feed
from coordinator.store.lease import Lease
from coordinator.store.look import Look
from coordinator.store.retrying import retried
from coordinator.store.schema import instances, pools, timeline
from coordinator.store.sealing import Sealer
from hostler.images import FETCH_CODES


class PhaseFact(msgspec.Struct, frozen=True):
    """A phase that an instance reached, as its host or provider reports it. A host speaks only of its own."""

    host: str  # empty: a cloud provider
    instance_id: str
    phase: Phase
    at: datetime
    detail: str = ""
    provider_id: str = ""
    error_code: str = ""  # where it is an error


class Begun(msgspec.Struct, frozen=True):
    """An instance for which a command is being carried out."""

    instance: Instance
    before: bool  # it was begun before: by an earlier life of this process, or by another one


class _Configured(msgspec.Struct, frozen=True):
    """What a forge gave an instance's runner."""

    instance_id: str
    runner_id: int
    sealed: bytes


class Instances:
    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        feed: Feed,
        lease: Lease,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._feed = feed
        self._lease = lease
        self._clock = clock
        self._chance = chance
        self._facts: Batcher[PhaseFact, None] = Batcher(self._write_facts)
        self._configured: Batcher[_Configured, bool] = Batcher(self._write_configured)
        self._look = Look(database)

    async def get(self, instance_id: str) -> Instance | None:
        found = await self._look.at([instance_id])
        return found[0] if found else None

    async def alive(self, host: str | None = None) -> list[Instance]:
        """All that are not deleted, of one host or of all."""
        if host is not None:
            return await self._look.on(host)
        async with self._database.read() as connection:
            return await instance_rows.alive(connection)

    async def some(self, ids: Collection[str]) -> list[Instance]:
        return await self._look.at(ids) if ids else []

    async def record_phase(self, fact: PhaseFact) -> None:
        """Fold a phase in; returns when it is on disk. Late and repeated phases change nothing."""
        await self._facts.submit(fact)

    @retried
    async def _write_facts(self, facts: Sequence[PhaseFact]) -> Sequence[None]:
        entries: list[Entry] = []
        ended: list[tuple[Changed, PhaseFact]] = []
        async with self._database.write() as connection:
            known = {i.id: i for i in await instance_rows.by_ids(connection, {fact.instance_id for fact in facts})}
            seen = await _steps_seen(connection, known)
            for fact in facts:
                instance = known.get(fact.instance_id)
                if instance is None or instance.host != fact.host:
                    continue
                step = PHASE_STEP[fact.phase]
                if fact.phase in changes.IMAGE_PHASES and (instance.id, step) not in seen:
                    instance = changes.on_image(
                        instance, fact.phase, self._clock(), await _timeout(connection, instance)
                    )
                became = changes.on_phase(instance, fact.phase, fact.at, fact.detail, fact.error_code)
                known[instance.id] = _with_provider_id(became.instance, fact.provider_id)
                if became.ended_idle or became.failed:
                    ended.append((became, fact))
                if (instance.id, step) not in seen:
                    seen.add((instance.id, step))
                    entries.append(Entry(step, fact.at, "", instance.id, fact.detail))
            # Always in the same order, so that no two coordinators wait for each other.
            for became, fact in sorted(ended, key=_order_of_locks):
                await self._count(connection, became, fact)
            await connection.run_sync(instance_rows.save, known.values())
            await instance_rows.forget_files(connection, [i.id for i in known.values() if i.status is Status.DELETED])
            await connection.run_sync(timelines.append, entries)
        self._feed.publish(entries)
        return [None] * len(facts)

    async def _count(self, connection: AsyncConnection, became: Changed, fact: PhaseFact) -> None:
        """What the phase means for the pool, the host and the job beside the instance."""
        now, instance = self._clock(), became.instance
        if became.ended_idle:
            await tried.may_have_run(connection, instance, now)
        if not became.failed:
            return
        await tried.failed(connection, instance, now, fact.detail or "the machine stopped before its runner was up")
        if fact.error_code in FETCH_CODES:
            return  # the host's report of the image says when it is tried again
        if _blames_host(fact.phase, instance):
            await cooldowns.host_failed(connection, instance.host, now, self._chance())
        else:
            await cooldowns.pool_failed(connection, instance.pool_id, now, self._chance(), fact.detail)

    @retried
    async def runner_said(self, instance_id: str, status: RunnerStatus, message: str) -> Instance | None:
        """Take a status that the guest reported; None when the instance is gone or cannot take that step."""
        now = self._clock()
        async with self._database.write() as connection:
            found = await instance_rows.by_ids(connection, [instance_id])
            if not found:
                return None
            instance = found[0]
            if status is not instance.runner_status and not can_runner(instance, status):
                return None
            entries = []
            if status is RunnerStatus.INSTALLING and instance.runner_status is RunnerStatus.PENDING:
                entries.append(Entry(Step.BOOTED, now, "", instance_id, message))
            if status is RunnerStatus.IDLE and instance.runner_status is not RunnerStatus.IDLE:
                entries.append(Entry(Step.RUNNER_ONLINE, now, "", instance_id, message))
                await cooldowns.succeeded(connection, instance.pool_id, instance.host)
                await tried.forgive(connection, [instance.entity_id], instance.labels)
            if status is RunnerStatus.FAILED:
                entries.append(Entry(Step.FAILED, now, "", instance_id, message))
                await cooldowns.pool_failed(connection, instance.pool_id, now, self._chance(), message)
                await tried.failed(connection, instance, now, message)
                instance = changes.finish(advance(instance, now, runner_status=status), now, fault=message)
            else:
                instance = advance(instance, now, runner_status=status)
            await connection.run_sync(instance_rows.save, [instance])
            await connection.run_sync(timelines.append, entries)
            if status in (RunnerStatus.IDLE, RunnerStatus.FAILED):
                await instance_rows.forget_files(connection, [instance_id])
        self._feed.publish(entries)
        return instance

    @retried
    async def system_info(self, instance_id: str, os_name: str, os_version: str) -> None:
        """Keep what the guest says of its system."""
        async with self._database.write() as connection:
            told = {"os_name": os_name, "os_version": os_version}
            await connection.execute(sa.update(instances).where(instances.c.id == instance_id).values(told))

    async def configure_runner(self, instance_id: str, forge_runner_id: int, files: Mapping[str, bytes]) -> bool:
        """Keep the just-in-time configuration until the guest fetches it; returns when it is on disk.

        False: the instance was sent away meanwhile, perhaps by one who did not see that it had a runner.

        Raises:
            LeaseLost: another coordinator asks the forge now, and this configuration is or will be replaced.
        """
        sealed = self._sealer.seal(msgspec.msgpack.encode(dict(files)), f"instance:{instance_id}")
        return await self._configured.submit(_Configured(instance_id, forge_runner_id, sealed))

    @retried
    async def _write_configured(self, configured: Sequence[_Configured]) -> Sequence[bool]:
        now = self._clock()
        ordered = sorted(configured, key=lambda one: one.instance_id)  # two coordinators must not wait for each other
        rows = [{"key_id": one.instance_id, "new_id": one.runner_id, "new_files": one.sealed} for one in ordered]
        entries = [Entry(Step.RUNNER_CONFIGURED, now, "", one.instance_id) for one in ordered]
        async with self._database.write() as connection:
            await connection.run_sync(self._lease.check)
            ids = {one.instance_id for one in configured}
            changed.of(connection).configured.update(ids)
            changed.of(connection).instances.update(ids)
            await connection.execute(
                sa.update(instances)
                .where(instances.c.id == sa.bindparam("key_id"))
                .values(forge_runner_id=sa.bindparam("new_id"), runner_files=sa.bindparam("new_files")),
                rows,
            )
            await connection.run_sync(timelines.append, entries)
            now_there = await instance_rows.by_ids(connection, ids, lock=False)
        self._feed.publish(entries)
        coming = {instance.id for instance in now_there if instance.status in COMING}
        return [one.instance_id in coming for one in configured]

    async def take_runner_file(self, instance_id: str, name: str) -> bytes | None:
        """One file of the runner's configuration, handed out once; None: not there yet.

        Raises:
            AlreadyTaken: it was handed out before.
            KeyError: the configuration has no such file.
        """
        files = await self._take(instance_id, frozenset({name}))
        return files[name] if files is not None else None

    async def take_runner_files(self, instance_id: str) -> Mapping[str, bytes] | None:
        """All files of the runner's configuration at once, handed out once; None: not there yet.

        Raises:
            AlreadyTaken: one of them was handed out before.
        """
        return await self._take(instance_id, None)

    @retried
    async def _take(self, instance_id: str, names: frozenset[str] | None) -> Mapping[str, bytes] | None:
        async with self._database.write() as connection:
            query = sa.select(instances.c.runner_files, instances.c.runner_files_taken)
            row = (await connection.execute(query.where(instances.c.id == instance_id).with_for_update())).one()
            before = row.runner_files_taken & names if names is not None else row.runner_files_taken
            if before:
                raise AlreadyTakenError(", ".join(sorted(before)))
            if row.runner_files is None:
                return None
            files = msgspec.msgpack.decode(
                self._sealer.open(row.runner_files, f"instance:{instance_id}"), type=dict[str, bytes]
            )
            given = {name: files[name] for name in names or files}
            taken = row.runner_files_taken | given.keys()
            await connection.execute(
                sa.update(instances).where(instances.c.id == instance_id).values(runner_files_taken=taken)
            )
        return given

    @retried
    async def retire(
        self,
        instance_id: str,
        reason: str,
        *,
        step: Step = Step.RETIRED,
        failed: bool = False,
        is_try: bool = True,
        only_if: RunnerStatus | None = None,
        only_free: bool = False,
        fenced: bool = False,
    ) -> bool:
        """Send an instance on its way to deletion; False when it is on its way already, or gone.

        Args:
            failed: count it as a failure of its pool,
            is_try: and, if so, as one of the tries of the job that it was made for.
            only_if: what its runner was when this was decided; when it is something else now, or has a job, nothing
                is done.
            only_free: nothing is done when its runner has a job.
            fenced: it was decided by the holder of the planning lease, as such.

        Raises:
            LeaseLost: `fenced`, and another coordinator decides now.
        """
        now = self._clock()
        async with self._database.write() as connection:
            if fenced:
                await connection.run_sync(self._lease.check)
            found = await instance_rows.by_ids(connection, [instance_id])
            if not found or not can(found[0], Status.PENDING_DELETE):
                return False
            if only_if is not None and found[0].runner_status is not only_if:
                return False
            if (only_free or only_if is not None) and found[0].job_id:
                return False
            finished = changes.finish(found[0], now, fault=reason if failed else "")
            await connection.run_sync(instance_rows.save, [finished])
            if failed:
                await cooldowns.pool_failed(connection, found[0].pool_id, now, self._chance(), reason)
                if is_try:
                    await tried.failed(connection, found[0], now, reason)
            entry = Entry(step, now, "", instance_id, reason)
            await connection.run_sync(timelines.append, [entry])
        self._feed.publish([entry])
        return True

    @retried
    async def mark_busy(self, instance_id: str) -> None:
        """The forge says that this runner has a job: it is kept, whatever we believed.

        Raises:
            LeaseLost: another coordinator asks the forge now, and may have heard something newer.
        """
        now = self._clock()
        async with self._database.write() as connection:
            await connection.run_sync(self._lease.check)
            found = await instance_rows.by_ids(connection, [instance_id])
            if found and can_runner(found[0], RunnerStatus.ACTIVE):
                running = advance(found[0], now, runner_status=RunnerStatus.ACTIVE)
                await connection.run_sync(instance_rows.save, [running])

    @retried
    async def begin(self, instance_id: str, status: Status, *, fenced: bool = False) -> Begun | None:
        """Note that a command is being carried out (creating or deleting); None when the instance has moved on.

        Args:
            fenced: only the holder of the planning lease carries it out.

        Raises:
            LeaseLost: `fenced`, and another coordinator carries it out now.
        """
        now = self._clock()

        def note(connection: sa.Connection) -> Begun | None:
            if fenced:
                self._lease.check(connection)
            found = instance_rows.locked(connection, instance_id)
            if found is None or (found.status is not status and not can(found, status)):
                return None
            instance = advance(found, now, status=status)
            instance_rows.save(connection, [instance])
            return Begun(instance, before=found.status is status)

        return await self._database.at_once(note)


class AlreadyTakenError(Exception):
    """A secret that is handed out once was asked for again."""


async def _timeout(connection: AsyncConnection, instance: Instance) -> timedelta:
    query = sa.select(pools.c.bootstrap_timeout_seconds).where(pools.c.id == instance.pool_id)
    return timedelta(seconds=(await connection.execute(query)).scalar_one())


def _blames_host(phase: Phase, instance: Instance) -> bool:
    return phase is Phase.FAILED and bool(instance.host)


def _order_of_locks(ended: tuple[Changed, PhaseFact]) -> tuple[bool, str, str]:
    """Pools before hosts, as everywhere, each by its key."""
    instance = ended[0].instance
    blames_host = _blames_host(ended[1].phase, instance)
    return blames_host, instance.host if blames_host else instance.pool_id, instance.id


def _with_provider_id(instance: Instance, provider_id: str) -> Instance:
    return msgspec.structs.replace(instance, provider_id=provider_id) if provider_id else instance


async def _steps_seen(connection: AsyncConnection, ids: Iterable[str]) -> set[tuple[str, Step]]:
    """Which steps are in the timelines already: hosts repeat themselves after a cut."""
    rows = await connection.execute(
        sa.select(timeline.c.instance_id, timeline.c.step).where(timeline.c.instance_id.in_(list(ids)))
    )
    return {(row.instance_id, Step(row.step)) for row in rows}
