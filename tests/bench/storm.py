"""Many jobs at once over 8 repositories: how soon all creates are at the agents, and whether in the policy's order.

With a limit a minute at the forge, how close that comes to the limit's own bound, and whether the limit is kept.
"""

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.farm import Farm
from tests.bench.fleet import Fleet
from tests.bench.forges import RunningForge, limiting_forge
from tests.bench.generator import send_all
from tests.bench.machine import cpu_seconds
from tests.bench.results import BenchmarkFailed, Result, at_most, shown
from tests.bench.site import Site, site
from tests.bench.webhooks import FIRST_JOB, queued_over

_HOSTS: Final = 110  # times 16 machines that one may make at once: room for all
_REPOSITORIES: Final = 8
_CONNECTIONS: Final = 64  # a forge sends what happens at once at once
_REGISTRATION_SECONDS: Final = 0.2
_JOBS: Final = 1_600
_CREDENTIALS: Final = 2
_PER_MINUTE: Final = 180
_PATIENCE_SECONDS: Final = 300.0
_AHEAD: Final = _CONNECTIONS // _REPOSITORIES
"""So many creates one repository may be ahead of another, by what has arrived: so many webhooks are on their way."""


class _Create(NamedTuple):
    planned_at: int  # microseconds since 1970, as all times
    entity_id: str
    queued_at: int
    job_id: str
    committed_at: int


class _Storm(NamedTuple):
    seconds: float  # from the first webhook to the last create
    registered_seconds: float  # to the forge's taking the last registration
    cpu_seconds: float  # of the coordinator
    out_of_order: int  # creates whose jobs others of their repository should not have come before
    ahead: int  # creates by which one repository was at most before another
    forge: RunningForge


async def run(folder: Path) -> list[Result]:
    storm = await _storm(folder, Fleet(repositories=_REPOSITORIES), _JOBS)
    name = f"storm, {_JOBS} jobs"
    return [
        at_most(f"{name}, first webhook to last create", storm.seconds, "s", 10),
        at_most(f"{name}, out of the policy's order", storm.out_of_order, "creates", 0),
        at_most(f"{name}, one repository ahead of another", storm.ahead, "creates", _AHEAD),
        shown(f"{name}, first webhook to last registration", storm.registered_seconds, "s"),
        shown(f"{name}, coordinator's CPU time", storm.cpu_seconds, "s"),
    ]


async def run_limited(folder: Path) -> list[Result]:
    """The bound: the last job's turn is when all those before it, of its credentials, fit into whole minutes."""
    fleet = Fleet(repositories=_REPOSITORIES, credentials=_CREDENTIALS, registrations_per_minute=_PER_MINUTE)
    storm = await _storm(folder, fleet, _JOBS)
    bound = 60.0 * ((_JOBS // _CREDENTIALS - 1) // _PER_MINUTE)
    counted = storm.forge.counted()
    name = f"storm-limited, {_JOBS} jobs, {_CREDENTIALS} x {_PER_MINUTE}/min"
    return [
        at_most(f"{name}, to last registration", storm.registered_seconds / bound, "of the bound", 1.05),
        shown(f"{name}, to last registration", storm.registered_seconds, "s"),
        at_most(f"{name}, 403 answers ignored", counted.ignored, "calls", 0),
        shown(f"{name}, 403 answers", counted.refused, "calls"),
    ]


async def _storm(folder: Path, fleet: Fleet, jobs: int) -> _Storm:
    limit = fleet.registrations_per_minute
    async with limiting_forge(folder, fleet, _REGISTRATION_SECONDS, limit) as forge:
        here = Fleet(**{name: getattr(fleet, name) for name in fleet.__struct_fields__} | {"forge_url": forge.url})
        async with site(folder / "site", here) as one, Farm(one.grpc, _HOSTS) as farm:
            requests = queued_over(forge.url, here.names(), FIRST_JOB, jobs)
            began, cpu = time.monotonic(), cpu_seconds(one.pid)
            await send_all(folder, one.http_port, requests, _CONNECTIONS)
            if not await farm.until_made(jobs, _PATIENCE_SECONDS):
                raise BenchmarkFailed(f"only {len(farm.made)} of {jobs} jobs got a machine")
            await _registered(forge, jobs)
            used = cpu_seconds(one.pid) - cpu
            one.check()
            order = _order(one)
            registered = forge.counted().last_at - began
            return _Storm(farm.made[-1].at - began, registered, used, *order, forge)


async def _registered(forge: RunningForge, jobs: int) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while forge.counted().registrations < jobs:
            await asyncio.sleep(0.1)


def _order(one: Site) -> tuple[int, int]:
    """Of the creates as they were planned, one after another. All repositories weigh the same.

    Of one repository an older job may come later only if it was not known yet: when it was committed after the plan
    before the one that it is compared with, since a plan is made a moment before it is committed.
    """
    query = (
        "SELECT p.at, j.entity_id, j.queued_at, j.id, c.at FROM timeline p JOIN jobs j ON j.id = p.job_id "
        "JOIN timeline c ON c.job_id = j.id AND c.step = 'committed' WHERE p.step = 'planned' ORDER BY p.id"
    )
    with closing(sqlite3.connect(f"file:{one.database}?mode=ro", uri=True)) as connection:
        creates = [_Create(*row) for row in connection.execute(query)]
    plans = [list(plan) for _, plan in groupby(creates, key=lambda create: create.planned_at)]
    swapped = ahead = 0
    before = 0  # when the plan before was made
    passed: dict[str, list[tuple[tuple[int, str], int]]] = {}  # repository to the jobs placed, and what was known then
    for plan in plans:
        for create in plan:
            mine = (create.queued_at, create.job_id)
            others = passed.setdefault(create.entity_id, [])
            swapped += any(mine < other and create.committed_at < known for other, known in others)
            others.append((mine, before))
        before = plan[0].planned_at
    counts = Counter(dict.fromkeys((create.entity_id for create in creates), 0))
    for create in creates:
        counts[create.entity_id] += 1
        ahead = max(ahead, max(counts.values()) - min(counts.values()))
    return swapped, ahead
