"""The loop: wake, take in what changed, plan, commit, act. Everything that it starts can be started again."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

import structlog

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import BOOTING, COMING, Instance, Status
from coordinator.domain.planner import plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment, Plan, Policy, Retire
from coordinator.engine.budgets import Budgets
from coordinator.engine.cloud import CloudExecutor
from coordinator.engine.errands import Errands
from coordinator.engine.local import LocalExecutor
from coordinator.engine.registrar import Registrar
from coordinator.fleet.links import Links
from coordinator.store.changed import Changes
from coordinator.store.store import Store

log = structlog.get_logger()

_SWEEP: Final = timedelta(minutes=5)
"""Everything is read anew that often: a safety net, no job waits on it."""

_AFTER_ERROR_SECONDS: Final = 1.0
_DELETES: Final = (Status.PENDING_DELETE, Status.PENDING_FORCE_DELETE, Status.DELETING)


class Engine:
    def __init__(
        self,
        store: Store,
        links: Links,
        local: LocalExecutor,
        cloud: CloudExecutor,
        registrar: Registrar,
        budgets: Budgets,
        policy: Policy,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._links = links
        self._local = local
        self._cloud = cloud
        self._registrar = registrar
        self._budgets = budgets
        self._policy = policy
        self._clock = clock
        self._errands = Errands(lambda instance_id: store.feed.changed(Changes(instances={instance_id})))
        self._board = Board(policy, {})
        self._decided = Plan()
        self._sweep_at: datetime | None = None  # None: everything must be read before the next plan

    def waiting_reason(self, job_id: str) -> str:
        """Why no machine is coming for a job, of the newest plan; empty when one is."""
        return why_waiting(self._board, self._decided, job_id)

    async def run(self) -> None:
        """For ever. Failures are logged and tried again; a wake during a pass leads to one more pass."""
        while True:
            try:
                wake_at = await self._pass()
            except Exception:
                log.exception("planning failed")
                self._sweep_at = None
                await asyncio.sleep(_AFTER_ERROR_SECONDS)
                continue
            await self._until(wake_at)

    async def close(self) -> None:
        await self._errands.close()

    async def _until(self, wake_at: datetime | None) -> None:
        now = self._clock()
        times = [time for time in (wake_at, self._sweep_at) if time is not None]
        seconds = (min(times) - now).total_seconds()
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                await self._store.feed.work.wait()
        except TimeoutError:
            return

    async def _pass(self) -> datetime | None:
        instances = await self._take_in()
        now = self._clock()
        decided = plan_on(self._board, Moment(now, self._budgets.now(now)))
        made = await self._store.planning.commit(decided)
        for instance in made:
            self._board.put_instance(instance)
            self._budgets.spend(self._board.entity(instance.entity_id).credentials_id, now)
        self._decided = decided
        for instance in [*made, *instances]:
            self._act_on(instance, self._board.pools[instance.pool_id])
        self._retire(decided.retires)
        self._local.forget(self._board.instances.keys())
        self._registrar.keep_only(self._board.instances.keys())
        return decided.wake_at

    async def _take_in(self) -> Iterable[Instance]:
        """Bring the board up to date; returns the instances to act on."""
        changes = self._store.feed.take()
        if self._sweep_at is None or self._clock() >= self._sweep_at:
            await self._read_all()
            return self._board.instances.values()
        if changes.catalog:
            self._budgets.limit(await self._store.catalog.registration_limits())
        try:
            return await self._store.planning.tell(self._board, changes, self._links.hosts())
        except BaseException:
            self._store.feed.changed(changes)
            raise

    async def _read_all(self) -> None:
        clouds = {name: cloud.settings.max_concurrent for name, cloud in self._cloud.clouds.items()}
        world = await self._store.planning.world(self._links.hosts(), clouds, self._policy)
        self._board = Board.of(world)
        self._budgets.limit(await self._store.catalog.registration_limits())
        self._sweep_at = self._clock() + _SWEEP

    def _act_on(self, instance: Instance, pool: Pool) -> None:
        in_cloud = instance.provider in self._cloud.clouds
        if instance.status in (Status.PENDING_CREATE, Status.CREATING):
            create = self._cloud.create(instance, pool) if in_cloud else self._local.create(instance, pool)
            self._errands.ensure("create", instance.id, create)
        if instance.status in COMING and instance.runner_status in BOOTING and not instance.forge_runner_id:
            self._errands.ensure("configure", instance.id, self._registrar.configure(instance, pool))
        if instance.status in _DELETES:
            delete = self._cloud.delete(instance, pool) if in_cloud else self._local.delete(instance)
            self._errands.ensure("delete", instance.id, delete)
            self._errands.ensure("forget", instance.id, self._registrar.forget(instance))

    def _retire(self, retires: Iterable[Retire]) -> None:
        for retire in retires:
            instance = self._board.instances[retire.instance_id]
            self._errands.ensure("retire", instance.id, self._let_go(instance, retire))

    async def _let_go(self, instance: Instance, retire: Retire) -> None:
        if await self._registrar.may_go(instance):
            await self._store.instances.retire(instance.id, retire.reason, failed=retire.failed)
        else:
            await self._store.instances.mark_busy(instance.id)
