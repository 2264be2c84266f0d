"""Many jobs at once over 8 repositories: how soon all creates are at the agents, and whether in the policy's order.

With a limit a minute at the forge, how close that comes to the limit's own bound, and whether the limit is kept.
"""

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.farm import Farm, Made
from tests.bench.fleet import Fleet
from tests.bench.forges import RunningForge, limiting_forge
from tests.bench.generator import send_all
from tests.bench.machine import cpu_seconds
from tests.bench.results import BenchmarkFailed, Result, at_most, shown
from tests.bench.site import Site, site
from tests.bench.webhooks import FIRST_JOB, queued_over

_HOSTS: Final = 110  # times 16 machines that one may make at once: room for all
_REPOSITORIES: Final = 8
_CONNECTIONS: Final = 8
_REGISTRATION_SECONDS: Final = 0.2
_JOBS: Final = 1_600
_JOBS_LIMITED: Final = 720
_CREDENTIALS: Final = 2
_PER_MINUTE: Final = 180
_PATIENCE_SECONDS: Final = 150.0


class _Storm(NamedTuple):
    seconds: float  # from the first webhook to the last create
    registered_seconds: float  # to the forge's taking the last registration
    cpu_seconds: float  # of the coordinator
    overtaken: int  # creates that came before one of an older job of their repository
    ahead: int  # creates by which one repository was at most before another
    forge: RunningForge


async def run(folder: Path) -> list[Result]:
    storm = await _storm(folder, Fleet(repositories=_REPOSITORIES), _JOBS)
    name = f"storm, {_JOBS} jobs"
    return [
        at_most(f"{name}, first webhook to last create", storm.seconds, "s", 10),
        at_most(f"{name}, overtook an older one of its repository", storm.overtaken, "creates", 0),
        shown(f"{name}, one repository ahead of another at most", storm.ahead, "creates"),
        shown(f"{name}, first webhook to last registration", storm.registered_seconds, "s"),
        shown(f"{name}, coordinator's CPU time", storm.cpu_seconds, "s"),
    ]


async def run_limited(folder: Path) -> list[Result]:
    """The bound: the last job's turn is when all those before it, of its credentials, fit into whole minutes."""
    fleet = Fleet(repositories=_REPOSITORIES, credentials=_CREDENTIALS, registrations_per_minute=_PER_MINUTE)
    storm = await _storm(folder, fleet, _JOBS_LIMITED)
    bound = 60.0 * ((_JOBS_LIMITED // _CREDENTIALS - 1) // _PER_MINUTE)
    counted = storm.forge.counted()
    name = f"storm-limited, {_JOBS_LIMITED} jobs, {_CREDENTIALS} x {_PER_MINUTE}/min"
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
            order = _order(one, farm.made)
            registered = forge.counted().last_at - began
            return _Storm(farm.made[-1].at - began, registered, used, *order, forge)


async def _registered(forge: RunningForge, jobs: int) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while forge.counted().registrations < jobs:
            await asyncio.sleep(0.1)


def _order(one: Site, made: list[Made]) -> tuple[int, int]:
    """Of the creates as they arrived. All repositories weigh the same, and their jobs were dealt to them in turn."""
    query = (
        "SELECT t.instance_id, j.entity_id, j.queued_at, j.id FROM timeline t JOIN jobs j ON j.id = t.job_id "
        "WHERE t.step = 'planned'"
    )
    with closing(sqlite3.connect(f"file:{one.database}?mode=ro", uri=True)) as connection:
        jobs = {instance: (entity, (at, job)) for instance, entity, at, job in connection.execute(query)}
    of: dict[str, list[tuple[str, str]]] = {}
    counts: Counter[str] = Counter(dict.fromkeys({entity for entity, _ in jobs.values()}, 0))
    ahead = 0
    for machine in made:
        entity, place = jobs[machine.instance_id]
        of.setdefault(entity, []).append(place)
        counts[entity] += 1
        ahead = max(ahead, max(counts.values()) - min(counts.values()))
    overtaken = sum(later < earlier for places in of.values() for earlier, later in pairwise(places))
    return overtaken, ahead
