"""Many jobs at once over 8 repositories: how soon all creates are at the agents, and whether in the policy's order.

With a limit a minute at the forge, how close that comes to the limit's own bound, and whether refusals are heard.
"""

import asyncio
import time
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tests.bench import storm_policy
from tests.bench.creates import Create, creates
from tests.bench.farm import Farm
from tests.bench.fleet import Fleet
from tests.bench.forges import RunningForge, limiting_forge
from tests.bench.generator import send_all
from tests.bench.limiting_forge import Counted
from tests.bench.machine import cpu_seconds
from tests.bench.results import BenchmarkFailed, Result, at_most, none_of, shown
from tests.bench.site import site
from tests.bench.webhooks import FIRST_JOB, queued_over

_HOSTS: Final = 110  # times 16 machines that one may make at once: room for all
_REPOSITORIES: Final = 8
_CONNECTIONS: Final = 64  # a forge sends what happens at once at once
_REGISTRATION_SECONDS: Final = 0.2
_JOBS: Final = 1_600
_CREDENTIALS: Final = 2
_PER_MINUTE: Final = 180
_PATIENCE_SECONDS: Final = 300.0
_UNKNOWN_PER_MINUTE: Final = 60
_JOBS_REFUSED: Final = 160
_HOSTS_REFUSED: Final = 10
_AHEAD: Final = _CONNECTIONS // _REPOSITORIES
"""So many creates one repository may be ahead of another, by what has arrived: so many webhooks are on their way."""


class _Storm(NamedTuple):
    seconds: float  # from the first webhook to the last create
    registered_seconds: float  # to the forge's taking the last registration
    cpu_seconds: float  # of the coordinator
    out_of_order: int  # creates whose jobs others of their repository should not have come before
    ahead: int  # creates by which one repository was at most before another
    counted: Counted


async def run(folder: Path) -> list[Result]:
    storm = await _storm(folder / "even", Fleet(repositories=_REPOSITORIES), _JOBS)
    name = f"storm, {_JOBS} jobs"
    return [
        at_most(f"{name}, first webhook to last create", storm.seconds, "s", 10),
        none_of(f"{name}, out of the policy's order", storm.out_of_order, "creates"),
        at_most(f"{name}, one repository ahead of another", storm.ahead, "creates", _AHEAD),
        shown(f"{name}, first webhook to last registration", storm.registered_seconds, "s"),
        shown(f"{name}, coordinator's CPU time", storm.cpu_seconds, "s"),
        *await storm_policy.run(folder),
    ]


async def run_limited(folder: Path) -> list[Result]:
    """Two storms beside each other, for most of their time is waiting: of one the coordinator knows the limit."""
    known, unknown = await asyncio.gather(_limit_known(folder / "known"), _limit_unknown(folder / "unknown"))
    return known + unknown


async def _limit_known(folder: Path) -> list[Result]:
    """The bound: the last job's turn is when all those before it, of its credentials, fit into whole minutes."""
    fleet = Fleet(repositories=_REPOSITORIES, credentials=_CREDENTIALS, registrations_per_minute=_PER_MINUTE)
    storm = await _storm(folder, fleet, _JOBS, limit=_PER_MINUTE)
    bound = _bound(_JOBS, _PER_MINUTE)
    name = f"storm-limited, {_JOBS} jobs, {_CREDENTIALS} x {_PER_MINUTE}/min"
    return [
        at_most(f"{name}, to last registration", storm.registered_seconds / bound, "of the bound", 1.05),
        shown(f"{name}, to last registration", storm.registered_seconds, "s"),
        none_of(f"{name}, 403 answers ignored", storm.counted.ignored, "calls"),
        shown(f"{name}, 403 answers", storm.counted.refused, "calls"),
    ]


async def _limit_unknown(folder: Path) -> list[Result]:
    """Nobody has told the coordinator, so the forge refuses it: and then it waits for as long as it is told to."""
    fleet = Fleet(repositories=_REPOSITORIES, credentials=_CREDENTIALS)
    storm = await _storm(folder, fleet, _JOBS_REFUSED, limit=_UNKNOWN_PER_MINUTE, hosts=_HOSTS_REFUSED)
    if not storm.counted.refused:
        raise BenchmarkFailed("the forge refused nothing, so nothing could be ignored")
    name = f"storm-limited, {_JOBS_REFUSED} jobs, {_CREDENTIALS} x {_UNKNOWN_PER_MINUTE}/min, undeclared"
    of_bound = storm.registered_seconds / _bound(_JOBS_REFUSED, _UNKNOWN_PER_MINUTE)
    return [
        none_of(f"{name}, 403 answers ignored", storm.counted.ignored, "calls"),
        shown(f"{name}, 403 answers", storm.counted.refused, "calls"),
        shown(f"{name}, to last registration", of_bound, "of the bound"),
    ]


def _bound(jobs: int, per_minute: int) -> float:
    return 60.0 * ((jobs // _CREDENTIALS - 1) // per_minute)


async def _storm(folder: Path, fleet: Fleet, jobs: int, *, limit: int = 0, hosts: int = _HOSTS) -> _Storm:
    """`limit`: registrations of one token in a minute, at the forge."""
    await asyncio.to_thread(folder.mkdir)
    async with limiting_forge(folder, fleet, _REGISTRATION_SECONDS, limit) as forge:
        here = msgspec.structs.replace(fleet, forge_url=forge.url)
        async with site(folder / "site", here) as one, Farm(one.grpc, hosts) as farm:
            requests = queued_over(forge.url, here.names(), FIRST_JOB, jobs)
            began, cpu = time.monotonic(), cpu_seconds(one.pid)
            await send_all(folder, one.http_port, requests, _CONNECTIONS)
            if not await farm.until_made(jobs, _PATIENCE_SECONDS):
                raise BenchmarkFailed(f"only {len(farm.made)} of {jobs} jobs got a machine")
            await _registered(forge, jobs)
            used = cpu_seconds(one.pid) - cpu
            one.check()
            order = _order(await creates(one, jobs))
            counted = forge.counted()
            return _Storm(farm.made[-1].at - began, counted.last_at - began, used, *order, counted)


async def _registered(forge: RunningForge, jobs: int) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while forge.counted().registrations < jobs:
            await asyncio.sleep(0.1)


def _order(creates: list[Create]) -> tuple[int, int]:
    """Of the creates as they were planned, one after another. All repositories weigh the same.

    Of one repository an older job may come later only if it was not known yet: when it was committed after the plan
    before the one that it is compared with, since a plan is made a moment before it is committed.
    """
    plans = [list(plan) for _, plan in groupby(creates, key=lambda create: create.planned_at)]
    swapped = ahead = 0
    before = 0  # when the plan before was made
    passed: dict[str, list[tuple[tuple[int, str], int]]] = {}  # repository to the jobs placed, and what was known then
    for plan in plans:
        for create in plan:
            mine = create.turn
            others = passed.setdefault(create.repository, [])
            swapped += any(mine < other and create.committed_at < known for other, known in others)
            others.append((mine, before))
        before = plan[0].planned_at
    counts = Counter(dict.fromkeys((create.repository for create in creates), 0))
    for create in creates:
        counts[create.repository] += 1
        ahead = max(ahead, max(counts.values()) - min(counts.values()))
    return swapped, ahead
