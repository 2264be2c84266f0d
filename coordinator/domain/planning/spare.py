"""Runners that no queued job needs: how many a pool keeps, which go, and which are of an older making."""

from collections.abc import Iterable

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import BOOTING
from coordinator.domain.planning.board import Board, oldest_first
from coordinator.domain.planning.draft import Draft
from coordinator.domain.resources import Resources
from coordinator.domain.world import Hold, Retire


def keep_idle(draft: Draft) -> None:
    """Let pools that keep idle runners make those that are missing; queued jobs were served first."""
    board = draft.board
    for pool in sorted((board.pools[i] for i in board.keepers), key=lambda p: (-p.priority, p.name, p.id)):
        for _ in range(pool.min_idle - _spare(board, pool)):
            room = draft.room(pool)
            if not isinstance(room, str):
                break
            draft.take(pool, room, "")


def retires(board: Board, holds: Iterable[Hold] = ()) -> list[Retire]:
    """Whom to let go: the overdue, the outdated, the surplus beyond its grace, those in the way. Each is named once."""
    going = [*_overdue(board), *_outdated(board), *_surplus(board), *_in_the_way(board, holds)]
    return list({retire.instance_id: retire for retire in going}.values())


def _overdue(board: Board) -> Iterable[Retire]:
    for instance_id in sorted(board.overdue):
        if board.instances[instance_id].runner_status in BOOTING:
            yield Retire(instance_id, "its runner did not come online within the pool's bootstrap timeout", failed=True)


def _outdated(board: Board) -> Iterable[Retire]:
    for instance_id in sorted(board.outdated):
        yield Retire(instance_id, "idle, and its pool has been changed since it was made")


def _surplus(board: Board) -> Iterable[Retire]:
    """Only those that are over their grace; the jobs that are counted are those that these very runners could serve."""
    idle = (board.instances[i] for i in board.overdue if board.instances[i].is_idle)
    over = oldest_first(i for i in idle if i.id in board.serving.of_pool(i.pool_id))
    spare = {i.pool_id: _beyond(board, board.pools[i.pool_id]) for i in over}
    for instance in over:
        if spare[instance.pool_id] > 0:
            spare[instance.pool_id] -= 1
            yield Retire(instance.id, "idle, and no queued job that it serves")


def _in_the_way(board: Board, holds: Iterable[Hold]) -> Iterable[Retire]:
    """Runners that a pool would keep idle, on hosts that are held for jobs which have waited too long."""
    for hold in holds:
        lacks = board.free[hold.host] if hold.host else Resources()
        for instance in oldest_first(board.instances[i] for i in board.on_host[hold.host] if i in board.overdue):
            stranger = board.neighbours.mind(hold.pool, instance.entity_id, instance.pool_id)
            if not instance.is_idle or _spare(board, board.pools[instance.pool_id]) <= 0:
                continue
            if stranger or lacks.eased_by(instance.resources):
                lacks += instance.resources
                reason = f"idle, and its host is kept for job {hold.job_id}, which has waited too long"
                yield Retire(instance.id, reason)


def _beyond(board: Board, pool: Pool) -> int:
    """How many of its unneeded runners it does not keep."""
    return _spare(board, pool) - (pool.min_idle if pool.enabled else 0)


def _spare(board: Board, pool: Pool) -> int:
    """How many of the pool's idle and coming runners no queued job needs.

    Runners of pools with the same labels are alike to the jobs: those needed are set against the pools in their order.
    """
    needed = board.cover_of(pool.entity_id).used.get(pool.labels, 0)
    for other in board.matching(pool.entity_id, pool.labels):
        if other.labels == pool.labels:
            here = _current(board, other)
            taken = min(needed, here)
            needed -= taken
            if other.id == pool.id:
                return here - taken
    return 0


def _current(board: Board, pool: Pool) -> int:
    """Its runners that carry the labels it has now: older ones are counted by the labels they were made with."""
    return sum(instance.labels == pool.labels for instance in board.serving.of_pool(pool.id).values())
