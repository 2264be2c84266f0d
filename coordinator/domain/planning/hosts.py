"""Which host takes one more machine of given resources: an index per kind of machine, kept in step lazily."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, NamedTuple

from coordinator.domain.fleet import Placement, Pool
from coordinator.domain.images import Reach
from coordinator.domain.resources import Resources


class Kind(NamedTuple):
    """What a machine needs of a host."""

    driver: str
    arch: str
    image: str
    resources: Resources
    placement: Placement

    @classmethod
    def of(cls, pool: Pool) -> "Kind":
        return cls(pool.provider, pool.arch, pool.image, pool.resources, pool.placement)


_IMAGE_THERE: Final = 1 << 32
"""More places than any host has: what is added where spreading takes the highest first, or packing the lowest."""
_NOT_EMULATED: Final = 2 * _IMAGE_THERE


REACHED: Final = (Reach.HERE, Reach.FETCH)
"""Of such images a host can make a machine."""


def ranked(places: int, image: Reach, placement: Placement, *, emulated: bool) -> int:
    """A host's place in the index of a kind; 0 for none.

    Hosts of the architecture go before those that emulate it, and those that have the image before those that fetch it.
    """
    if not places or image not in REACHED:
        return 0
    spread = placement is Placement.SPREAD
    if (image is Reach.HERE) is spread:
        places += _IMAGE_THERE
    if emulated is not spread:
        places += _NOT_EMULATED
    return places


class HostIndex:
    """The hosts that fit one kind, by how many more of it they take, as `ranked`.

    The same facts give the same answers, whatever the order in which they came: among equals the first name wins.

    When machines are spread, a host that has got fuller need not be refreshed: it stands too high, is met there first,
    and is then moved to where it belongs.
    """

    def __init__(self, places: Callable[[str], int], placement: Placement) -> None:
        self._places = places  # how many more of this kind a host takes now, ranked; 0 for one that may not
        self._spread = placement is Placement.SPREAD
        self._of_host: dict[str, int] = {}
        self._levels: dict[int, list[str]] = {}  # heaps of names; stale names are dropped when they surface

    def refresh(self, host: str) -> bool:
        """Something about the host has changed; returns whether it has any room."""
        now = self._places(host)
        if self._of_host.get(host) == now:
            return now > 0
        if now == 0:
            self._of_host.pop(host, None)
            return False
        self._of_host[host] = now
        heappush(self._levels.setdefault(now, []), host)
        return True

    def pick(self, suits: Callable[[str], bool]) -> str | None:
        """The emptiest host that suits, or the fullest when packing; None when there is none."""
        passed: set[int] = set()
        while levels := self._levels.keys() - passed:
            level = max(levels) if self._spread else min(levels)
            found = self._pick_at(level, suits)
            if found is not None:
                return found
            passed.add(level)
        return None

    def _pick_at(self, level: int, suits: Callable[[str], bool]) -> str | None:
        heap = self._levels[level]
        passed_over: list[str] = []
        found = None
        while heap:
            host = heap[0]
            if self._of_host.get(host) != level or (passed_over and passed_over[-1] == host):
                heappop(heap)  # stale, or there twice
            elif self._spread and self._places(host) != level:
                heappop(heap)
                self.refresh(host)
            elif suits(host):
                found = host
                break
            else:
                passed_over.append(heappop(heap))
        for host in passed_over:
            heappush(heap, host)
        if not heap:
            del self._levels[level]
        return found
