"""The loop: wake, snapshot, plan, commit, act. Everything that it starts can be started again."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import COMING, Instance, RunnerStatus, Status
from coordinator.domain.planner import plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment, Plan, Policy, Retire, World
from coordinator.engine.cloud import CloudExecutor
from coordinator.engine.errands import Errands
from coordinator.engine.local import LocalExecutor
from coordinator.engine.registrar import Registrar
from coordinator.fleet.links import Links
from coordinator.store.store import Store

log = structlog.get_logger()

_SWEEP: Final = timedelta(seconds=30)
"""A pass is made that often though nothing woke it: a safety net, no job waits on it."""

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
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._links = links
        self._local = local
        self._cloud = cloud
        self._registrar = registrar
        self._clock = clock
        self._errands = Errands()
        self._board = Board(Policy(), {})  # of the newest plan
        self._decided = Plan()

    def waiting_reason(self, job_id: str) -> str:
        """Why no machine is coming for a job, of the newest plan; empty when one is."""
        return why_waiting(self._board, self._decided, job_id)

    async def run(self) -> None:
        """For ever. Failures are logged and tried again; a wake during a pass leads to one more pass."""
        work = self._store.feed.work
        while True:
            work.clear()
            try:
                wake_at = await self._pass()
            except Exception:
                log.exception("planning failed")
                await asyncio.sleep(_AFTER_ERROR_SECONDS)
                continue
            await self._until(work, wake_at)

    async def close(self) -> None:
        await self._errands.close()

    async def _until(self, work: asyncio.Event, wake_at: datetime | None) -> None:
        now = self._clock()
        at = min(wake_at or now + _SWEEP, now + _SWEEP)
        try:
            async with asyncio.timeout(max((at - now).total_seconds(), 0.001)):
                await work.wait()
        except TimeoutError:
            return

    async def _pass(self) -> datetime | None:
        clouds = {name: cloud.settings.max_concurrent for name, cloud in self._cloud.clouds.items()}
        world = await self._store.planning.world(self._links.hosts(), clouds)
        board = Board.of(world)
        decided = plan_on(board, Moment(self._clock()))
        made = await self._store.planning.commit(decided)
        self._act(world, made, decided)
        self._board, self._decided = board, decided
        return decided.wake_at

    def _act(self, world: World, made: list[Instance], decided: Plan) -> None:
        pools = {pool.id: pool for pool in world.pools}
        for instance in [*made, *world.instances]:
            self._act_on(instance, pools[instance.pool_id])
        instances = {instance.id: instance for instance in world.instances}
        for retire in decided.retires:
            self._errands.ensure(f"retire {retire.instance_id}", self._retire(instances[retire.instance_id], retire))
        alive = instances.keys() | {instance.id for instance in made}
        self._local.forget(alive)
        self._registrar.keep_only(alive)

    def _act_on(self, instance: Instance, pool: Pool) -> None:
        in_cloud = instance.provider in self._cloud.clouds
        if instance.status in (Status.PENDING_CREATE, Status.CREATING):
            create = self._cloud.create(instance, pool) if in_cloud else self._local.create(instance, pool)
            self._errands.ensure(f"create {instance.id}", create)
        needs_runner = instance.runner_status in (RunnerStatus.PENDING, RunnerStatus.INSTALLING)
        if instance.status in COMING and needs_runner and not instance.forge_runner_id:
            self._errands.ensure(f"configure {instance.id}", self._registrar.configure(instance, pool))
        if instance.status in _DELETES:
            delete = self._cloud.delete(instance, pool) if in_cloud else self._local.delete(instance)
            self._errands.ensure(f"delete {instance.id}", delete)
            self._errands.ensure(f"forget {instance.id}", self._registrar.forget(instance))

    async def _retire(self, instance: Instance, retire: Retire) -> None:
        if await self._registrar.may_go(instance):
            await self._store.instances.retire(instance.id, retire.reason, failed=retire.failed)
        else:
            await self._store.instances.mark_busy(instance.id)
