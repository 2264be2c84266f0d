"""A plan while it grows: which job is next, and where its machine may be. What it takes of the board it gives back."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from coordinator.domain.fleet import Balancer, Host, Pool
from coordinator.domain.images import Image, Reach
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.hosts import Kind
from coordinator.domain.planning.waiting import JobClass, Place
from coordinator.domain.world import Create, Moment, Waits


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


class Draft:
    def __init__(self, board: Board, moment: Moment) -> None:
        self.board = board
        self.creates: list[Create] = []
        self.waits: list[Waits] = []
        self.retry_at: datetime | None = None  # when a budget lets more through
        self._moment = moment
        self._calls = {credentials: budget.calls for credentials, budget in moment.budgets.items()}
        self._last_pool: dict[str, str] = {}  # of those that this plan has used
        self._starved_before = moment.now - board.policy.starvation_bound

    def serve(self) -> None:
        """Place the uncovered jobs, the most deserving first, until none can be placed."""
        nexts = dict(self._uncovered())
        turns = [(self._turn(job_class, first), job_class) for job_class, first in nexts.items()]
        heapify(turns)
        while turns:
            turn, job_class = turns[0]
            now = self._turn(job_class, nexts[job_class])
            if now != turn:  # its entity has got machines since
                heapreplace(turns, (now, job_class))
                continue
            queue = self.board.waiting.of(job_class.entity_id)[job_class]
            placed = self.place(job_class, (now.queued_at, now.job_id))
            if isinstance(placed, Waits):
                # Room only shrinks while a plan grows, so all the rest of the class waits for the same reason.
                self.waits.append(placed.of(len(queue) - nexts[job_class]))
                heappop(turns)
                continue
            nexts[job_class] += 1
            if nexts[job_class] == len(queue):
                heappop(turns)

    def place(self, job_class: JobClass, first: Place) -> Create | Waits:
        """A machine for one job of the class, or why there is none."""
        pools = self.board.matching(job_class.entity_id, job_class.labels)
        if not pools:
            wanted = ", ".join(sorted(job_class.labels))
            return Waits(first, job_class, "no_pool", f"no pool of its repository has all its labels ({wanted})")
        reasons: list[str] = []
        for pool in self._in_turn(job_class.entity_id, pools):
            room = self.room(pool)
            if isinstance(room, str):
                return self.take(pool, room, first[1])
            reasons.append(f"pool {pool.name}: {room.reason}")
        return Waits(first, job_class, "no_room", "; ".join(reasons))

    def room(self, pool: Pool) -> str | NoRoom:
        """The host for one more machine of the pool, empty for a cloud; or why there is none."""
        refusal = self._refusal(pool)
        if refusal:
            return NoRoom(refusal)
        if pool.provider in self.board.clouds:
            return self._in_cloud(pool)
        kind = Kind(pool.provider, pool.arch, pool.image, pool.resources, pool.placement)
        host = self.board.index(kind).pick(lambda name: not self._unsuited(self.board.hosts[name], pool))
        return host if host is not None else NoRoom(self._no_host(pool))

    def take(self, pool: Pool, host: str, job_id: str) -> Create:
        self.board.take(pool, host)
        self._last_pool[pool.entity_id] = pool.id
        credentials = self.board.entity(pool.entity_id).credentials_id
        if credentials in self._calls:
            self._calls[credentials] -= 1
        create = Create(pool, host, job_id)
        self.creates.append(create)
        return create

    def undo(self) -> None:
        """Give back to the board all that was taken of it."""
        for create in self.creates:
            self.board.take(create.pool, create.host, -1)

    def _uncovered(self) -> Iterator[tuple[JobClass, int]]:
        for entity_id in self.board.waiting.entities():
            covered = self.board.cover_of(entity_id)
            for job_class, queue in self.board.waiting.of(entity_id).items():
                first = covered.get(job_class, 0)
                if first < len(queue):
                    yield job_class, first

    def _turn(self, job_class: JobClass, first: int) -> _Turn:
        queued_at, job_id = self.board.waiting.of(job_class.entity_id)[job_class][first]
        if queued_at <= self._starved_before:
            return _Turn(0, 0, 0.0, queued_at, job_id)
        return _Turn(1, -job_class.priority, self.board.share(job_class.entity_id), queued_at, job_id)

    def _in_turn(self, entity_id: str, pools: Sequence[Pool]) -> Sequence[Pool]:
        """The pools as they are tried: always from the first, or from the one after the last that was used."""
        if self.board.entity(entity_id).balancer is Balancer.PACK:
            return pools
        last = self._last_pool.get(entity_id) or self.board.last_pool(entity_id)
        after = next((n + 1 for n, pool in enumerate(pools) if pool.id == last), 0)
        return [*pools[after:], *pools[:after]]

    def _refusal(self, pool: Pool) -> str:
        board = self.board
        entity = board.entity(pool.entity_id)
        if not pool.enabled:
            return "it is disabled"
        if board.in_pool[pool.id] >= pool.max_runners:
            return f"all its {pool.max_runners} runners are in use"
        if board.resting(pool.cool_until):
            last = f"; the last: {pool.fault}" if pool.fault else ""
            return f"it rests until {_clock(pool.cool_until)} after {pool.failures} failures{last}"
        if entity.quota is not None and board.of_entity[pool.entity_id] >= entity.quota:
            return f"its repository's quota of {entity.quota} machines is used up"
        if self._calls.get(entity.credentials_id, 1) <= 0:
            refill = self._moment.budgets[entity.credentials_id].refill_at
            self.retry_at = min(self.retry_at or refill, refill)
            return f"the forge's rate limit lets no more runners be registered until {_clock(refill)}"
        return ""

    def _in_cloud(self, pool: Pool) -> str | NoRoom:
        if self.board.making[pool.provider] >= self.board.clouds[pool.provider]:
            return NoRoom(f"provider {pool.provider} is making {self.board.making[pool.provider]}, its limit")
        return ""

    def _unsuited(self, host: Host, pool: Pool) -> str:
        """Why a host with room for it does not take this pool's machine now; empty when it does."""
        if self.board.making[host.name] >= self.board.policy.creates_per_host:
            return f"is making {self.board.making[host.name]} machines, its limit"
        if self.board.has_strangers(host.name, pool):
            return "has machines of another repository, and one of the two does not share hosts"
        return ""

    def _no_host(self, pool: Pool) -> str:
        """Why no host takes one, told of each; of many alike, once."""
        by_reason: dict[str, list[str]] = {}
        for host in sorted(self.board.hosts.values(), key=lambda h: h.name):
            by_reason.setdefault(self._host_refusal(host, pool), []).append(host.name)
        if not any(pool.provider in host.drivers for host in self.board.hosts.values()):
            return f"no agent offers the provider '{pool.provider}', and no [[provider]] of that name is configured"
        told = [f"host {_some(names)} {reason}" for reason, names in by_reason.items()]
        more = [f"and {len(told) - _REASONS_TOLD} more reasons"] if len(told) > _REASONS_TOLD else []
        return "; ".join(told[:_REASONS_TOLD] + more)

    def _host_refusal(self, host: Host, pool: Pool) -> str:
        free = self.board.free[host.name]
        image = self.board.reach(host, pool.provider, pool.image)
        told = _no_image(host, pool, self.board.images.get((pool.image, host.arch)))
        checks = (
            (pool.provider not in host.drivers, f"has no provider '{pool.provider}'"),
            (host.arch != pool.arch, f"is {host.arch}, the pool wants {pool.arch}"),
            (not host.connected, "is not connected"),
            (image in told, told.get(image, "")),
            (
                self.board.resting(host.cool_until),
                f"rests until {_clock(host.cool_until)} after {host.failures} failures",
            ),
            (not free.holds(pool.resources), f"is full ({free.short_of(pool.resources)})"),
        )
        return next((reason for refused, reason in checks if refused), "") or self._unsuited(host, pool)


_REASONS_TOLD = 8


def _no_image(host: Host, pool: Pool, entry: Image | None) -> dict[Reach, str]:
    """Why a host can make no machine of a pool's image."""
    name, rest = pool.image, host.held.rests.get(entry.sha256) if entry else None
    return {
        Reach.NO_ENTRY: f"does not have the image '{name}', nor does the catalogue for {host.arch}",
        Reach.NO_FETCHING: f"does not have the image '{name}', and cannot fetch it for {pool.provider}",
        Reach.RESTS: f"could not fetch the image '{name}' and does not try before {_clock(rest)}",
    }


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _clock(time: datetime | None) -> str:
    return f"{time:%H:%M:%S} UTC" if time else ""
