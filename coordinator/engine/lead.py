"""What the holder of the planning lease does besides: it plans, and acts for clouds and at the forges."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import structlog

from coordinator.domain.instance import BOOTING, COMING, Instance
from coordinator.domain.planner import plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment, Plan, Policy, Retire, Way, World
from coordinator.engine.budgets import WINDOW, Budgets
from coordinator.engine.cloud import CloudExecutor
from coordinator.engine.errands import Errands
from coordinator.engine.hands import CREATES, DELETES, Hands
from coordinator.engine.registrar import Registrar
from coordinator.store.changed import Changes
from coordinator.store.store import Store

log = structlog.get_logger()

_CREATES: Final = 100
"""In one plan: the event loop waits that long, and what is left is in the next, which follows at once."""


class Lead:
    """One term: from the moment the lease is got until it is lost."""

    def __init__(
        self,
        store: Store,
        hands: Hands,
        cloud: CloudExecutor,
        registrar: Registrar,
        budgets: Budgets,
        policy: Policy,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._hands = hands
        self._cloud = cloud
        self._registrar = registrar
        self._budgets = budgets
        self._policy = policy
        self._clock = clock
        self._errands = Errands(lambda instance_id: store.feed.changed(Changes(instances={instance_id})))
        self.board = Board(policy, {})
        self.decided = Plan()

    async def begin(self) -> None:
        """Before the first plan: what was registered lately, by whomever, counts."""
        self._budgets.remember(await self._store.planning.registered_since(self._clock() - WINDOW))

    async def plan(self, changes: Changes) -> datetime | None:
        """Take in what changed, plan, commit and act; returns when to plan again though nothing happens.

        The first call must be with `everything`.

        Raises:
            LeaseLost: the plan was not committed; this term is over.
        """
        if changes.everything or changes.catalog:
            self._budgets.limit(await self._store.catalog.credentials())
        if changes.everything:
            instances, decided = await self._begin_anew()
        else:
            instances = await self._store.planning.tell(self.board, changes)
            decided = plan_on(self.board, self._moment(), _CREATES)
        made = await self._store.planning.commit(decided)
        for instance in made:
            self.board.put_instance(instance)
            self._budgets.plan(self.board.entity(instance.entity_id).credentials_id, instance.id)
        self.decided = decided
        for instance in [*made, *instances]:
            self._act_on(instance)
        self._retire(decided.retires)
        for host in decided.drained:
            self._errands.ensure("drained", host, self._drained(host))
        self._hands.keep_only(self.board.instances.keys())
        self._registrar.keep_only(self.board.instances.keys())
        return decided.wake_at

    async def close(self) -> None:
        """Let go of everything under way: the next holder begins it again."""
        await self._errands.close()

    async def _begin_anew(self) -> tuple[Iterable[Instance], Plan]:
        """Read everything and plan: in a thread, as it can take seconds; until then the old board counts."""
        world = await self._store.planning.world(self._cloud.capacities(), self._policy)
        self.board, decided = await asyncio.to_thread(_plan_anew, world, self._moment())
        return self.board.instances.values(), decided

    def _moment(self) -> Moment:
        now = self._clock()
        return Moment(now, self._budgets.now(now), self._cloud.circuits.not_closed())

    def _act_on(self, instance: Instance) -> None:
        pool = self.board.pools[instance.pool_id]
        if instance.host:
            self._hands.act(instance, pool)
        elif instance.provider not in self._cloud.clouds:
            self._errands.ensure("miss", instance.id, self._cloud.miss(instance))
        elif instance.status in CREATES:
            self._errands.ensure("create", instance.id, self._cloud.create(instance, pool))
        elif instance.status in DELETES:
            self._errands.ensure("delete", instance.id, self._cloud.delete(instance, pool))
        if instance.status in COMING and instance.runner_status in BOOTING and not instance.forge_runner_id:
            self._errands.ensure("configure", instance.id, self._registrar.configure(instance, pool))
        if instance.status in DELETES:
            self._errands.ensure("forget", instance.id, self._registrar.forget(instance))

    def _retire(self, retires: Iterable[Retire]) -> None:
        for retire in retires:
            instance = self.board.instances[retire.instance_id]
            self._errands.ensure("retire", instance.id, self._let_go(instance, retire))

    async def _let_go(self, instance: Instance, retire: Retire) -> None:
        """What has changed since the plan is kept, and thought over again."""
        fresh = await self._store.instances.get(instance.id)
        asks = retire.way in (Way.ASKING, Way.LOST)
        if fresh is None or fresh.runner_status is not instance.runner_status or (asks and fresh.job_id):
            return
        if asks and not await self._registrar.may_go(fresh):
            await self._store.instances.mark_busy(instance.id)
        elif retire.way in (Way.LOST, Way.ENDED):
            await self._store.upkeep.lose(instance.id, retire.reason, only_if=instance.runner_status)
        else:
            only_if = instance.runner_status if asks else None
            await self._store.instances.retire(
                instance.id, retire.reason, failed=retire.failed, only_if=only_if, fenced=True
            )

    async def _drained(self, host: str) -> None:
        if await self._store.upkeep.drained(host):
            log.info("host is drained", host=host)


def _plan_anew(world: World, moment: Moment) -> tuple[Board, Plan]:
    board = Board.of(world)
    return board, plan_on(board, moment, _CREATES)
