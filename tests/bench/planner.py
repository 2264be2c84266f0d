"""How fast the planner is on a large fleet: all jobs at once, and one thing more when all are placed, or all wait."""

import time
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from coordinator.domain.instance import Instance
from coordinator.domain.job import Job
from coordinator.domain.planner import plan, plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment, Plan, World
from tests.bench.planner_world import NOW, Size, coming, extra_job, full, placed, waiting
from tests.bench.results import BenchmarkFailed, Result, at_least, at_most, percentile, shown

_FULL: Final = Size(hosts=10_000, pools=500, jobs=20_000)
_SMALLEST_PART: Final = 64
_LONGEST_SECONDS: Final = 3.0
_REPEATS: Final = 3
_ONE_MORE: Final = 300
_STEP: Final = 100  # as many as the engine commits at once
_STEPS: Final = 20


async def run(_: Path) -> list[Result]:
    size, seconds, world, decided = _largest_in_time()
    board = Board.of(placed(world, decided))
    # The engine's board lives as long as the process, so what is indexed at first need has long been indexed.
    for number in range(size.pools):
        _place_one(board, extra_job(number, size))
    taken = [_place_one(board, extra_job(number, size)) * 1000 for number in range(_ONE_MORE)]
    scale = f"{size.jobs} jobs, {size.pools} pools, {size.hosts} hosts"
    part = f" (1/{_FULL.jobs // size.jobs} of full size)" if size != _FULL else ""
    steps = _in_steps(world)
    return [
        at_least(f"planner, from scratch, {scale}{part}", size.jobs / seconds, "placements/s", 5_000),
        at_most(f"planner, one more job, {scale}{part}, p50", percentile(taken, 50), "ms", 2),
        shown(
            f"planner, {_STEPS} steps of {_STEP} jobs, {scale} waiting{part}",
            _STEP / percentile(steps, 50),
            "placements/s",
        ),
        *_on_a_full_fleet(full(world, decided), size, f"{scale}{part}"),
    ]


def _in_steps(world: World) -> list[float]:
    """Seconds of each step in which the engine places a backlog, without its commit."""
    board = Board.of(msgspec.structs.replace(world))
    taken = []
    for step in range(_STEPS):
        began = time.perf_counter()
        decided = plan_on(board, Moment(NOW), _STEP)
        for number, create in enumerate(decided.creates):
            board.put_instance(coming(step * _STEP + number, create))
        taken.append(time.perf_counter() - began)
        _check(decided, _STEP)
    return taken


def _on_a_full_fleet(world: World, size: Size, scale: str) -> list[Result]:
    """As many jobs wait as machines run, and nothing more fits anywhere."""
    board = Board.of(world)
    waits = [_wait_longer(board, extra_job(number, size), NOW) * 1000 for number in range(size.pools + _ONE_MORE)]
    ends = [_replace_one(board, instance) * 1000 for instance in world.instances[:: size.jobs // _ONE_MORE]]
    late = NOW + 2 * board.policy.starvation_bound
    starving = [_wait_longer(board, extra_job(number, size), late) * 1000 for number in range(_ONE_MORE)]
    return [
        at_most(
            f"planner, one more job beside waiting ones, {scale}, p50", percentile(waits[size.pools :], 50), "ms", 2
        ),
        at_most(f"planner, one machine less, {scale}, p50", percentile(ends, 50), "ms", 2),
        at_most(f"planner, one more beside starving jobs, {scale}, p50", percentile(starving, 50), "ms", 20),
    ]


def _wait_longer(board: Board, job: Job, now: datetime) -> float:
    began = time.perf_counter()
    board.put_job(job)
    decided = plan_on(board, Moment(now))
    took = time.perf_counter() - began
    _check(decided, 0)
    board.drop_job(job.id)
    return took


def _replace_one(board: Board, instance: Instance) -> float:
    """A machine ends, and one of the waiting jobs gets its room."""
    began = time.perf_counter()
    board.drop_instance(instance.id)
    decided = plan_on(board, Moment(NOW))
    took = time.perf_counter() - began
    if not decided.creates:
        raise BenchmarkFailed(f"nobody got the room of a machine of {instance.pool_id}: {len(decided.waits)} wait")
    board.put_instance(instance)
    return took


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
            repeats = _REPEATS if seconds < 10 else 1
            return size, percentile([seconds, *(_timed(world)[0] for _ in range(repeats - 1))], 50), world, decided
        part //= 2


def _timed(world: World) -> tuple[float, Plan]:
    fresh = msgspec.structs.replace(world)
    began = time.perf_counter()
    decided = plan(fresh, NOW)
    return time.perf_counter() - began, decided


def _check(decided: Plan, creates: int) -> None:
    if len(decided.creates) != creates:
        reason = decided.waits[0].reason if decided.waits else "nothing waits"
        raise BenchmarkFailed(f"{len(decided.creates)} of {creates} jobs were placed: {reason}")
