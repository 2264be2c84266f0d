"""What is kept free for jobs that have waited beyond the starvation bound and fit nowhere yet.

Such a job is placed in thought: the place in its pool, in its entity's quota and on one host that it will need are not
given to anybody after it. Without that, whoever needs less takes each piece that becomes free, for ever.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final

from coordinator.domain.fleet import Pool
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.hosts import Kind
from coordinator.domain.planning.waiting import JobClass, Place
from coordinator.domain.resources import Resources
from coordinator.domain.world import Hold

MOST: Final = 32
"""Holds of one plan, the longest waiting first. More would keep much of a fleet idle, and each takes time to find."""

_LOOKED_AT: Final = 16
"""Hosts of which one is chosen for a hold."""

_AT_ONCE: Final = datetime.min.replace(tzinfo=UTC)


class Holds:
    def __init__(self, board: Board) -> None:
        self._board = board
        self.all: list[Hold] = []
        self.of_pool: Counter[str] = Counter()
        self.of_entity: Counter[str] = Counter()
        self.on_host: defaultdict[str, list[Hold]] = defaultdict(list)
        self._free_before: dict[str, Resources] = {}  # what is free on hosts of holds when these are not counted

    def add(self, job_class: JobClass, place: Place) -> Hold | None:
        """Keep what a job will need; None when there is no way for it, or enough is held."""
        if len(self.all) >= MOST:
            return None
        for pool in self._board.matching(job_class.entity_id, job_class.labels):
            host = self._host_for(pool, place[1]) if self._may(pool) else None
            if host is not None:
                return self._take(Hold(place[1], place[0], pool, host))
        return None

    def in_the_way_of(self, kind: Kind) -> Hold | None:
        """One without which there might be room for such a machine."""
        for host, free in self._free_before.items():
            if free.holds(kind.resources) and self._board.takes(kind, self._board.hosts[host]):
                return self.on_host[host][0]
        return None

    def undo(self) -> None:
        for hold in self.all:
            if hold.host:
                self._board.hold(hold.pool, hold.host, -1)

    def _take(self, hold: Hold) -> Hold:
        self.all.append(hold)
        self.of_pool[hold.pool.id] += 1
        self.of_entity[hold.pool.entity_id] += 1
        if hold.host:
            self.on_host[hold.host].append(hold)
            self._free_before.setdefault(hold.host, self._board.free[hold.host])
            self._board.hold(hold.pool, hold.host)
        return hold

    def _may(self, pool: Pool) -> bool:
        """Whether the pool can make one more machine when others have ended."""
        quota = self._board.entity(pool.entity_id).quota
        return (
            pool.enabled
            and not self._board.resting(pool.cool_until)
            and self.of_pool[pool.id] < pool.max_runners
            and (quota is None or self.of_entity[pool.entity_id] < quota)
        )

    def _host_for(self, pool: Pool, job_id: str) -> str | None:
        """The host that is likely to have room soonest; empty for a cloud, None when no host will ever have it.

        That is the one where the youngest of the machines that must end is the oldest. Nothing new is placed on a host
        that is held, and elsewhere what is new is younger: so the choice only ever changes for the better, and the
        job is placed when all machines have ended that were there when it was first held for, at the latest.
        """
        if pool.provider in self._board.clouds:
            return ""
        waits = ((self._free_when(pool, host), host) for host in self._candidates(Kind.of(pool), job_id))
        return min(((since, host) for since, host in waits if since is not None), default=(None, None))[1]

    def _candidates(self, kind: Kind, job_id: str) -> Sequence[str]:
        """Some hosts that can take such a machine when they are empty, for each job the same ones."""
        if kind in self._board.able:
            return self._board.able[kind]
        names = self._board.host_names
        start = int.from_bytes(blake2b(job_id.encode(), digest_size=4).digest())
        found: list[str] = []
        for number in range(start, start + len(names)):
            name = names[number % len(names)]
            host = self._board.hosts[name]
            if host.capacity.holds(kind.resources) and self._board.takes(kind, host):
                found.append(name)
                if len(found) == _LOOKED_AT:
                    return found
        self._board.able[kind] = found
        return found

    def _free_when(self, pool: Pool, host: str) -> datetime | None:
        """When the youngest machine was made that must end before the pool's next fits there; None: it never will."""
        board = self._board
        if any(board.neighbours.mind(pool, hold.pool.entity_id, hold.pool.id) for hold in self.on_host[host]):
            return None
        free, since = board.free[host], _AT_ONCE
        for may_stay, made_at, one in sorted(self._ending(pool, instance_id) for instance_id in board.on_host[host]):
            if may_stay and free.holds(pool.resources):
                break
            free += board.instances[one].resources
            since = max(since, made_at)
        return since if free.holds(pool.resources) else None

    def _ending(self, pool: Pool, instance_id: str) -> tuple[bool, datetime, str]:
        """A machine as one that must end: strangers must, of the others the oldest is likely to end first.

        Those that are idle are as good as gone: they get a job soon, or are let go.
        """
        machine = self._board.instances[instance_id]
        stranger = self._board.neighbours.mind(pool, machine.entity_id, machine.pool_id)
        return not stranger, _AT_ONCE if machine.is_idle else machine.created_at, machine.id
