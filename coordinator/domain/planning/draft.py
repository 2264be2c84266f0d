"""A plan while it grows: which job is next, and where its machine may be. What it takes of the board it gives back."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

import msgspec

from coordinator.domain.circuit import Circuit, State
from coordinator.domain.fleet import Balancer, Pool
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.holds import Holds
from coordinator.domain.planning.hosts import Kind
from coordinator.domain.planning.reasons import clock, kept_for, no_agent, no_room, offered, unsuited
from coordinator.domain.planning.waiting import JobClass, Place
from coordinator.domain.world import Create, Moment, Refusal, Waits


class _Turn(NamedTuple):
    """Whose turn it is: the smallest is next. Ends in the oldest waiting job's place, which is unique."""

    fresh: int  # 0: has waited beyond the bound, and goes before everything that has not
    rank: int  # the priority, negative
    share: float
    queued_at: datetime
    job_id: str


class NoRoom(NamedTuple):
    """Why a pool can make no machine now."""

    reason: str
    code: str
    full: Kind | str = ""  # the hosts or the cloud that have no room
    stands: bool = True  # until something changes that the board is told of

    @property
    def by_hosts(self) -> bool:
        return isinstance(self.full, Kind)


class Draft:
    """One plan in the making.

    Args:
        most: creates, after which the plan is left unfinished.
    """

    def __init__(self, board: Board, moment: Moment, most: int | None = None) -> None:
        self.board = board
        self.creates: list[Create] = []
        self.holds = Holds(board)
        self.retry_at: datetime | None = None  # when a budget lets more through, or a provider may be called again
        self.unfinished = False
        self._most = most
        self._moment = moment
        self._calls = {credentials: budget.calls for credentials, budget in moment.budgets.items()}
        self._last_pool: dict[str, str] = {}  # of those that this plan has used
        self._starved_before = moment.now - board.policy.starvation_bound
        self._moved: set[str] = set()  # entities that have got machines, or whose first jobs have, since their turns
        self._nexts: dict[JobClass, int] = {}  # each class's first job that is not thought of yet
        self._looked_at: dict[JobClass, int] = {}  # per class: jobs before it have machines of their own
        self._waits: dict[JobClass, Waits] = {}
        self._stand: list[Waits] = []  # the refusals of plans before
        self._full: dict[tuple[Kind, str, bool], NoRoom] = {}
        self._full_of: dict[str, set[Kind | str]] = {}  # entity to where it would have needed room
        self._volatile: set[str] = set()  # entities whose refusals may end without a change of the board

    @property
    def waits(self) -> list[Waits]:
        return sorted([*self._stand, *self._waits.values()], key=lambda wait: wait.first)

    def serve(self) -> None:
        """Place the uncovered jobs, the most deserving first, until none can be placed."""
        self.board.reconsider()
        thought_of = sorted(self.board.agenda.open)
        self._stand = self.board.agenda.refused()
        self._nexts = dict(self._uncovered(thought_of))
        turns = [(self._turn(job_class), job_class) for job_class in self._nexts]
        heapify(turns)
        while turns:
            if len(self.creates) == self._most:
                self.unfinished = True
                self._volatile.update(job_class.entity_id for _, job_class in turns)
                break
            turn, job_class = turns[0]
            now = self._turn(job_class) if job_class.entity_id in self._moved else turn
            if now != turn:
                heapreplace(turns, (now, job_class))
            elif not self._serve_one(job_class, (now.queued_at, now.job_id), starves=not now.fresh):
                heappop(turns)
        self._close(thought_of)

    def room(self, pool: Pool) -> str | NoRoom:
        """The host for one more machine of the pool, empty for a cloud; or why there is none."""
        refused = self._refusal(pool)
        if refused is not None:
            return refused
        if pool.provider in self.board.clouds:
            return self._in_cloud(pool)
        kind = Kind.of(pool)
        # Room only shrinks while a plan grows: where there was none, there is none.
        alike = (kind, pool.entity_id if self.board.neighbours.shy else "", pool.share_hosts)
        full = self._full.get(alike)
        if full is None:
            host = self.board.index(kind).pick(lambda name: not self._unsuited(name, pool))
            if host is not None:
                return host
            full = self._full[alike] = self._no_host(pool, kind)
        return full

    def take(self, pool: Pool, host: str, job_id: str) -> Create:
        self.board.take(pool, host)
        self._moved.add(pool.entity_id)
        self._last_pool[pool.entity_id] = pool.id
        credentials = self.board.entity(pool.entity_id).credentials_id
        if credentials in self._calls:
            self._calls[credentials] -= 1
        create = Create(pool, host, job_id)
        self.creates.append(create)
        return create

    def undo(self) -> None:
        """Give back to the board all that was taken of it."""
        self.holds.undo()
        for create in self.creates:
            self.board.take(create.pool, create.host, -1)

    # --- whose turn it is ---

    def _uncovered(self, entity_ids: Iterable[str]) -> Iterator[tuple[JobClass, int]]:
        for entity_id in entity_ids:
            queues = self.board.waiting.of(entity_id)
            if not queues:
                continue
            covered = self.board.cover_of(entity_id)
            for job_class, queue in queues.items():
                first = covered.get(job_class, 0)
                if first < len(queue):
                    yield job_class, first

    def _turn(self, job_class: JobClass) -> _Turn:
        queue = self.board.waiting.of(job_class.entity_id)[job_class]
        queued_at, job_id = queue[self._nexts[job_class]]
        if queued_at <= self._starved_before:
            return _Turn(0, 0, 0.0, queued_at, job_id)
        return _Turn(1, -job_class.priority, self.board.share(job_class.entity_id), queued_at, job_id)

    def _serve_one(self, job_class: JobClass, first: Place, *, starves: bool) -> bool:
        """Place the class's next job, or keep for it what it needs; returns whether its others are to be thought of."""
        wait = self._waits.get(job_class)
        left = len(self.board.waiting.of(job_class.entity_id)[job_class]) - self._nexts[job_class]
        if wait is None:
            placed = self._place(job_class, first, left)
            wait = placed if isinstance(placed, Waits) else None
        if wait is not None:
            # Room only shrinks while a plan grows, so all the rest of the class waits for the same reason.
            self._waits.setdefault(job_class, wait)
            if not starves or not self._hold(job_class, first):
                return False
        self._nexts[job_class] += 1
        self._moved.add(job_class.entity_id)
        return left > 1

    def _hold(self, job_class: JobClass, place: Place) -> bool:
        self._volatile.add(job_class.entity_id)
        hold = self.holds.add(job_class, place)
        if hold is None:
            return False
        wait = self._waits[job_class]
        if not wait.kept:
            where = f" and room on host {hold.host}" if hold.host else ""
            kept = f"it has waited too long: the next place in pool {hold.pool.name}{where} is kept for it"
            reason = f"{wait.reason}; {kept}"
            self._waits[job_class] = msgspec.structs.replace(wait, reason=reason, kept=kept)
        return True

    def _close(self, entity_ids: Iterable[str]) -> None:
        """What was refused for good is not thought of again before something changes."""
        waits: dict[str, list[Waits]] = {}
        for job_class, wait in self._waits.items():
            waits.setdefault(job_class.entity_id, []).append(wait)
        for entity_id in entity_ids:
            if entity_id not in self._volatile:
                self.board.close(entity_id, tuple(waits.get(entity_id, ())), self._full_of.get(entity_id, ()))

    # --- where its machine may be ---

    def _place(self, job_class: JobClass, first: Place, left: int) -> Create | Waits:
        """A machine for one job of the class, or why there is none for it and the others that are left."""
        pools = self.board.matching(job_class.entity_id, job_class.labels)
        if not pools:
            wanted = ", ".join(sorted(job_class.labels))
            return Waits(first, job_class, "no_pool", f"no pool of its repository has all its labels ({wanted})", left)
        refusals: list[Refusal] = []
        for pool in self._in_turn(job_class.entity_id, pools):
            room = self.room(pool)
            if isinstance(room, str):
                return self.take(pool, room, self._whose(job_class, first))
            self._note(job_class.entity_id, room)
            refusals.append(Refusal(pool.id, pool.name, room.reason, room.code, room.by_hosts))
        reason = "; ".join([f"pool {one.pool_name}: {one.reason}" for one in refusals])
        return Waits(first, job_class, "no_room", reason, left, tuple(refusals))

    def _whose(self, job_class: JobClass, first: Place) -> str:
        """The job that the machine is made for: the oldest of the class that none is made for yet.

        That is another than the first without cover where an older one has come late: the runners that there are go to
        the oldest, and the one that loses its cover has a machine that bears its name.
        """
        if not self.board.serving.has_own(first[1]):
            return first[1]
        queue = self.board.waiting.of(job_class.entity_id)[job_class]
        for place in range(self._looked_at.get(job_class, 0), self._nexts[job_class]):
            job_id = queue[place][1]
            if not self.board.serving.has_own(job_id):
                self._looked_at[job_class] = place + 1
                return job_id
        self._looked_at[job_class] = self._nexts[job_class]
        return first[1]

    def _note(self, entity_id: str, refused: NoRoom) -> None:
        if not refused.stands:
            self._volatile.add(entity_id)
        if refused.full:
            self._full_of.setdefault(entity_id, set()).add(refused.full)

    def _in_turn(self, entity_id: str, pools: Sequence[Pool]) -> Sequence[Pool]:
        """The pools as they are tried: always from the first, or from the one after the last that was used."""
        if len(pools) == 1 or self.board.entity(entity_id).balancer is Balancer.PACK:
            return pools
        last = self._last_pool.get(entity_id) or self.board.newest.pool_of(entity_id)
        after = next((n + 1 for n, pool in enumerate(pools) if pool.id == last), 0)
        return [*pools[after:], *pools[:after]]

    def _refusal(self, pool: Pool) -> NoRoom | None:
        board = self.board
        entity = board.entity(pool.entity_id)
        if not pool.enabled:
            return NoRoom("it is disabled", "pool_disabled")
        if board.in_pool[pool.id] >= pool.max_runners:
            return NoRoom(f"all its {pool.max_runners} runners are in use", "pool_full")
        if board.resting(pool.cool_until):
            last = f"; the last: {pool.fault}" if pool.fault else ""
            return NoRoom(f"it rests until {clock(pool.cool_until)} after {pool.failures} failures{last}", "pool_rests")
        if entity.quota is not None and board.of_entity[pool.entity_id] >= entity.quota:
            return NoRoom(f"its repository's quota of {entity.quota} machines is used up", "quota_used_up")
        if self._calls.get(entity.credentials_id, 1) <= 0:
            refill = self._moment.budgets[entity.credentials_id].refill_at
            self.retry_at = min(self.retry_at or refill, refill)
            return NoRoom(
                f"the forge's rate limit lets no more runners be registered until {clock(refill)}",
                "rate_limit",
                stands=False,
            )
        return self._kept_from(pool)

    def _kept_from(self, pool: Pool) -> NoRoom | None:
        board, holds = self.board, self.holds
        if not holds.all:
            return None
        quota = board.entity(pool.entity_id).quota
        if board.in_pool[pool.id] + holds.of_pool[pool.id] >= pool.max_runners:
            hold = next(hold for hold in holds.all if hold.pool.id == pool.id)
            return NoRoom(f"its next free place is {kept_for(hold)}", "kept", stands=False)
        if quota is not None and board.of_entity[pool.entity_id] + holds.of_entity[pool.entity_id] >= quota:
            hold = next(hold for hold in holds.all if hold.pool.entity_id == pool.entity_id)
            return NoRoom(f"the next place in its repository's quota is {kept_for(hold)}", "kept", stands=False)
        return None

    def _in_cloud(self, pool: Pool) -> str | NoRoom:
        making, limit = self.board.making[pool.provider], self.board.clouds[pool.provider]
        circuit = self._moment.circuits.get(pool.provider)
        broken = self._left_alone(pool.provider, circuit, making) if circuit is not None else None
        if broken is not None:
            return broken
        if making < limit:
            return ""
        return NoRoom(f"provider {pool.provider} is making {making}, its limit", "provider_busy", pool.provider)

    def _left_alone(self, provider: str, circuit: Circuit, making: int) -> NoRoom | None:
        state = circuit.state(self._moment.now)
        if state is State.OPEN and circuit.open_until is not None:
            self.retry_at = min(self.retry_at or circuit.open_until, circuit.open_until)
            until = clock(circuit.open_until)
            failed = f"has failed {circuit.failures} times in a row and is left alone until {until}"
            return NoRoom(f"provider {provider} {failed}; the last: {circuit.fault}", "provider_rests", stands=False)
        if state is State.TRIED and making:
            return NoRoom(
                f"provider {provider} is tried with one machine; before: {circuit.fault}",
                "provider_rests",
                stands=False,
            )
        return None

    def _unsuited(self, host: str, pool: Pool) -> str:
        """Why a host with room for it does not take this pool's machine now; empty when it does."""
        return unsuited(self.board, self.board.hosts[host], pool)

    def _no_host(self, pool: Pool, kind: Kind) -> NoRoom:
        if not offered(self.board, pool):
            return NoRoom(no_agent(pool), "no_provider", kind)
        hold = self.holds.in_the_way_of(kind)
        if hold is not None:
            reason = f"{no_room(self.board, kind)}, but for host {hold.host}, which is {kept_for(hold)}"
            return NoRoom(reason, "kept", kind, stands=False)
        return NoRoom(no_room(self.board, kind), "no_host", kind)
