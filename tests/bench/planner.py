"""How fast the planner is on a large fleet: all its jobs at once, and one more job when all are placed."""

import time
from pathlib import Path
from typing import Final

import msgspec

from coordinator.domain.job import Job
from coordinator.domain.planner import plan, plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment, Plan, World
from tests.bench.planner_world import NOW, Size, extra_job, placed, waiting
from tests.bench.results import BenchmarkFailed, Result, at_least, at_most, percentile

_FULL: Final = Size(hosts=10_000, pools=500, jobs=20_000)
_SMALLEST_PART: Final = 64
_LONGEST_SECONDS: Final = 3.0
_REPEATS: Final = 3
_ONE_MORE: Final = 300


async def run(_: Path) -> list[Result]:
    size, seconds, world, decided = _largest_in_time()
    board = Board.of(placed(world, decided))
    # The engine's board lives as long as the process, so what is indexed at first need has long been indexed.
    for number in range(size.pools):
        _place_one(board, extra_job(number, size))
    taken = [_place_one(board, extra_job(number, size)) * 1000 for number in range(_ONE_MORE)]
    scale = f"{size.jobs} jobs, {size.pools} pools, {size.hosts} hosts"
    part = f" (1/{_FULL.jobs // size.jobs} of full size)" if size != _FULL else ""
    return [
        at_least(f"planner, from scratch, {scale}{part}", size.jobs / seconds, "placements/s", 5_000),
        at_most(f"planner, one more job, {scale}{part}, p50", percentile(taken, 50), "ms", 2),
    ]


def _place_one(board: Board, job: Job) -> float:
    """One more job for a board that is kept in step, as the engine keeps it."""
    began = time.perf_counter()
    board.put_job(job)
    decided = plan_on(board, Moment(NOW))
    took = time.perf_counter() - began
    _check(decided, 1)
    board.drop_job(job.id)
    return took


def _largest_in_time() -> tuple[Size, float, World, Plan]:
    """Double the world until it is whole or takes too long. What was measured on a part is not scaled up."""
    part = _SMALLEST_PART
    while True:
        size = Size(hosts=_FULL.hosts // part, pools=max(_FULL.pools // part, 1), jobs=_FULL.jobs // part)
        world = waiting(size)
        seconds, decided = _timed(world)
        _check(decided, size.jobs)
        if part == 1 or seconds > _LONGEST_SECONDS:
            best = min([seconds, *(_timed(world)[0] for _ in range(_REPEATS - 1))]) if seconds < 10 else seconds
            return size, best, world, decided
        part //= 2


def _timed(world: World) -> tuple[float, Plan]:
    fresh = msgspec.structs.replace(world)
    began = time.perf_counter()
    decided = plan(fresh, NOW)
    return time.perf_counter() - began, decided


def _check(decided: Plan, creates: int) -> None:
    if len(decided.creates) != creates:
        reason = decided.waits[0].reason[:200] if decided.waits else "nothing waits"
        raise BenchmarkFailed(f"{len(decided.creates)} of {creates} jobs were placed: {reason}")
