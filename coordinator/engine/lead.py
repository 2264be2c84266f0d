"""What the holder of the planning lease does besides: it plans, and acts for clouds and at the forges."""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import structlog

from coordinator.domain.instance import BOOTING, COMING, Instance
from coordinator.domain.planner import plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.explain import Explanation, explain
from coordinator.domain.world import Moment, Plan, Policy, Retire, Way, World
from coordinator.engine.budgets import WINDOW, Budgets
from coordinator.engine.cloud import CloudExecutor
from coordinator.engine.errands import Errands
from coordinator.engine.hands import CREATES, DELETES, Hands
from coordinator.engine.registrar import Registrar
from coordinator.engine.renewal import Renewal
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
        on_planned: Callable[[float], None],
    ) -> None:
        self._store = store
        self._hands = hands
        self._cloud = cloud
        self._registrar = registrar
        self._budgets = budgets
        self._policy = policy
        self._clock = clock
        self._on_planned = on_planned
        self._errands = Errands(lambda instance_id: store.feed.changed(Changes(instances={instance_id})))
        self.board = Board(policy, {})
        self.decided = Plan()
        self._is_sound = False  # the board is known to be in step: not before the first, nor after an error
        self._renewal: Renewal | None = None

    async def begin(self) -> None:
        """Before the first plan: what was registered lately, by whomever, counts."""
        self._budgets.remember(await self._store.planning.registered_since(self._clock() - WINDOW))

    async def plan(self, changes: Changes) -> datetime | None:
        """Take in what changed, plan, commit and act; returns when to plan again though nothing happens.

        The first call must be with `everything`, and the next one after an error.

        Raises:
            LeaseLost: the plan was not committed; this term is over.
        """
        if changes.everything or changes.catalog:
            self._budgets.limit(await self._store.catalog.credentials())
        was_sound, self._is_sound = self._is_sound, False
        instances = await self._take_in(changes, beside=was_sound)
        began = time.perf_counter()
        decided = plan_on(self.board, self._moment(), _CREATES)
        self._on_planned(time.perf_counter() - began)
        wake_at = await self._carry_out(decided, instances)
        self._is_sound = True
        return wake_at

    def explain(self, job_id: str) -> Explanation:
        """Why a job waits, by the newest plan."""
        return explain(self.board, self.decided, self._moment(), job_id)

    async def _carry_out(self, decided: Plan, instances: Iterable[Instance]) -> datetime | None:
        made = await self._store.planning.commit(decided)
        if self._renewal is not None:
            self._renewal.noted(Changes(instances={instance.id for instance in made}))
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
        self._errands.keep_only(lambda subject: subject in self.board.instances or subject in self.board.hosts)
        self._registrar.keep_only(self.board.instances.keys())
        return decided.wake_at

    async def close(self) -> None:
        """Let go of everything under way: the next holder begins it again."""
        self._drop_renewal()
        await self._errands.close()

    async def _take_in(self, changes: Changes, *, beside: bool) -> Iterable[Instance]:
        """Bring the board up to date; returns the instances that are to be looked at.

        Everything is read and indexed in a task and a thread, as it can take seconds: jobs that come meanwhile do not
        wait for it, but are placed by the board that there is.

        Args:
            beside: that will do.
        """
        if changes.everything:
            self._drop_renewal()
            self._renewal = Renewal(self._world, self._moment, self._store.feed.work.set)
        renewal = self._renewal
        if renewal is None:
            return await self._store.planning.tell(self.board, changes)
        if beside and not renewal.is_done:
            renewal.noted(changes)
            return await self._store.planning.tell(self.board, changes)
        board, since = await renewal.board()
        since.take_in(changes)
        await self._store.planning.tell(board, since)
        self.board, self._renewal = board, None
        return board.instances.values()

    async def _world(self) -> World:
        return await self._store.planning.world(self._cloud.capacities(), self._policy)

    def _drop_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.drop()
            self._renewal = None

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
        """What has changed since the plan is kept, and thought over again; but not whose runner is deregistered."""
        fresh = await self._store.instances.get(instance.id)
        asks = retire.way in (Way.ASKING, Way.LOST)
        if fresh is None or fresh.runner_status is not instance.runner_status or (asks and fresh.job_id):
            return
        if asks and not await self._registrar.may_go(fresh):
            await self._store.instances.mark_busy(instance.id)
            return
        deregistered = asks and bool(fresh.forge_runner_id)
        only_if = None if deregistered or retire.way is Way.STOPPED else instance.runner_status
        if retire.way in (Way.LOST, Way.ENDED):
            await self._store.upkeep.lose(instance.id, retire.reason, only_if=only_if)
        else:
            await self._store.instances.retire(
                instance.id, retire.reason, failed=retire.failed, only_if=only_if, only_free=deregistered, fenced=True
            )

    async def _drained(self, host: str) -> None:
        if await self._store.upkeep.drained(host):
            log.info("host is drained", host=host)
