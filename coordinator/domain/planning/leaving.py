"""Instances that must go because of their host: it is lost, or it is being emptied."""

from collections.abc import Iterable, Mapping
from typing import Final

from coordinator.domain.absence import OF_ABSENCE, OF_DRAIN, Fate, Presence, doing, emptying
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Retire, Way

_WAY: Final[Mapping[Fate, Way]] = {
    Fate.LOSE: Way.LOST,
    Fate.END: Way.ENDED,
    Fate.RETIRE: Way.ASKING,
    Fate.STOP: Way.STOPPED,
}


def retires(board: Board) -> Iterable[Retire]:
    """Of a host that is both, what its being lost means: nobody there obeys."""
    for host in sorted(board.draining - board.lost):
        state = emptying(board.hosts[host], board.now)
        for instance_id in sorted(board.on_host[host]):
            fate = OF_DRAIN[state, doing(board.instances[instance_id])]
            if fate in _WAY:
                over = "the deadline of its host's drain is over" if fate is Fate.STOP else "its host is drained"
                yield Retire(instance_id, over, way=_WAY[fate])
    for host in sorted(board.lost):
        for instance_id in sorted(board.on_host[host]):
            fate = OF_ABSENCE[Presence.LOST, doing(board.instances[instance_id])]
            if fate in _WAY:
                yield Retire(instance_id, f"its host {host} is lost", way=_WAY[fate])


def drained(board: Board) -> tuple[str, ...]:
    """Hosts that were to be emptied and have nothing left."""
    return tuple(sorted(host for host in board.draining if not board.on_host[host]))
