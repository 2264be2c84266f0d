"""The loop: wake, take in what changed, and let it be acted on. Everything that it starts can be started again."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import structlog

from coordinator.domain.planner import plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.explain import Explanation, explain
from coordinator.domain.world import Moment, Plan, Policy, World
from coordinator.engine.budgets import Budgets
from coordinator.engine.cloud import CloudExecutor
from coordinator.engine.hands import Hands
from coordinator.engine.lead import Lead
from coordinator.engine.local import LocalExecutor
from coordinator.engine.registrar import Registrar
from coordinator.fleet.links import Links
from coordinator.fleet.prefetcher import Prefetcher
from coordinator.store.lease import LeaseLost
from coordinator.store.store import Store

log = structlog.get_logger()

_SWEEP: Final = timedelta(minutes=5)
"""Everything is read anew that often: a safety net, no job waits on it."""

_AFTER_ERROR_SECONDS: Final = 1.0
_CONSIDERED: Final = timedelta(seconds=5)
"""How long a coordinator that does not plan believes what it thought of the plan."""


class Engine:
    """While this process holds the planning lease it leads; its hands work always."""

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
        self._cloud = cloud
        self._policy = policy
        self._clock = clock
        self._hands = Hands(store, links, local)
        self._links = links
        self._prefetcher = Prefetcher(store, links)
        self._new_lead: Callable[[], Lead] = lambda: Lead(
            store, self._hands, cloud, registrar, budgets, policy, clock, self.on_planned
        )
        self._lead: Lead | None = None
        self._term: int | None = None
        self._sweep_at: datetime | None = None  # None: everything must be read
        self._considered: tuple[datetime, Board, Plan] | None = None
        self.on_planned: Callable[[float], None] = lambda _: None  # told how many seconds a pass of the planner took

    # --- why jobs wait ---

    async def consider(self) -> None:
        """Before `waiting_reason` is asked: where another coordinator plans, think of what it would plan.

        What it knows of the forges' rate limits is not known here.
        """
        now = self._clock()
        fresh = self._considered is not None and now - self._considered[0] < _CONSIDERED
        if self._lead is not None or fresh:
            return
        world = await self._store.planning.world(self._cloud.capacities(), self._policy)
        self._considered = (now, *await asyncio.to_thread(_think, world, now))

    def waiting_reason(self, job_id: str, *, brief: bool = False) -> str:
        """Why no machine is coming for a job, of the newest plan; empty when one is. `brief`: for many jobs at once."""
        if self._lead is not None:
            return why_waiting(self._lead.board, self._lead.decided, job_id, brief=brief)
        if self._considered is not None:
            return why_waiting(*self._considered[1:], job_id, brief=brief)
        return ""

    def explain(self, job_id: str) -> Explanation | None:
        """Why a job waits, in full; None where this coordinator knows of no plan yet. After `consider`."""
        if self._lead is not None:
            return self._lead.explain(job_id)
        if self._considered is None:
            return None
        at, board, decided = self._considered
        return explain(board, decided, Moment(at), job_id)

    def waiting(self) -> Mapping[str, int]:
        """How many queued jobs no machine is coming for, by the first reason's code; none where another one plans."""
        counts = Counter[str]()
        for wait in self._lead.decided.waits if self._lead is not None else ():
            counts[wait.refusals[0].code if wait.refusals else wait.code] += wait.count
        return counts

    # --- the loop ---

    async def run(self) -> None:
        """For ever. Failures are logged and tried again; a wake during a pass leads to one more pass."""
        while True:
            try:
                wake_at = await self._pass()
            except LeaseLost as lost:
                log.warning("this coordinator does not plan any more", reason=str(lost))
                self._store.lease.lose()
                await self._end_term()
                continue
            except Exception:
                log.exception("planning failed")
                self._sweep_at = None
                await asyncio.sleep(_AFTER_ERROR_SECONDS)
                continue
            await self._until(wake_at)

    async def close(self) -> None:
        await self._end_term()
        await self._hands.close()

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
        await self._begin_term(self._store.lease.number)
        changes = self._store.feed.take()
        if self._sweep_at is None or self._clock() >= self._sweep_at:
            changes.everything = True
        try:
            if self._lead is not None:
                wake_at = await self._lead.plan(changes)
            else:
                wake_at = None
                await self._hands.take_in(changes)
        except BaseException:
            self._store.feed.changed(changes)
            raise
        await self._prefetcher.tell(self._links.hosts() if changes.everything else changes.hosts)
        if changes.everything:
            self._sweep_at = self._clock() + _SWEEP
        return wake_at

    async def _begin_term(self, number: int | None) -> None:
        if number == self._term:
            return
        await self._end_term()
        if number is not None:
            log.info("this coordinator plans", term=number)
            lead = self._new_lead()
            await lead.begin()
            self._lead, self._term = lead, number
            self._sweep_at = None

    async def _end_term(self) -> None:
        lead, self._lead, self._term = self._lead, None, None
        if lead is not None:
            await lead.close()
            self._sweep_at = None


def _think(world: World, now: datetime) -> tuple[Board, Plan]:
    board = Board.of(world)
    return board, plan_on(board, Moment(now))
