"""The coordinator is killed among 1,000 jobs, some of which end, at a moment that a seed draws, and started again.

Webhooks that were not answered are sent again, as a forge redelivers them. HOSTLER_BENCH_SEED repeats a moment.
"""

import asyncio
import os
import random
import secrets
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.farm import Farm, Made
from tests.bench.finishing import Finishing
from tests.bench.fleet import Fleet
from tests.bench.forges import limiting_forge, runners
from tests.bench.latency import Hook
from tests.bench.results import BenchmarkFailed, Result, at_most, none_of, shown
from tests.bench.site import Site, site
from tests.bench.webhooks import FIRST_JOB, queued_over

_JOBS: Final = 1_000
_HOSTS: Final = 64
_REPOSITORIES: Final = 8
_CONNECTIONS: Final = 8
_ROUNDS: Final = 3
_REGISTRATION_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 40.0
_SETTLE_LOOKS: Final = 20  # a second apart
_QUIET_SECONDS: Final = 2.0
"""So long nothing more happens: what would be doubled shows by then."""


class _Crash(NamedTuple):
    first_create_seconds: float  # from the restart
    all_seconds: float
    lost: int
    doubled: int
    ended: int  # jobs that ran to their ends meanwhile
    unmatched: int  # runners at the forge without a machine, and machines without their runner


async def run(folder: Path) -> list[Result]:
    seed = int(os.environ.get("HOSTLER_BENCH_SEED") or secrets.randbelow(1_000_000))
    sys.stderr.write(f"crash: HOSTLER_BENCH_SEED={seed}\n")
    chance = random.Random(seed)  # noqa: S311 - a repeatable moment, not a secret
    crashes = []
    for number in range(_ROUNDS):
        (folder / str(number)).mkdir()
        crashes.append(await _crash(folder / str(number), chance.randint(1, _JOBS - 50)))
    return [
        at_most("crash, restart to first planned create, worst", max(c.first_create_seconds for c in crashes), "s", 2),
        shown("crash, restart to every job's create, worst", max(c.all_seconds for c in crashes), "s"),
        none_of(f"crash, lost of {_ROUNDS} x {_JOBS} jobs, seed {seed}", sum(c.lost for c in crashes), "jobs"),
        none_of(f"crash, doubled of {_ROUNDS} x {_JOBS} jobs", sum(c.doubled for c in crashes), "machines"),
        none_of(
            "crash, runners without machine or machines without runner", sum(c.unmatched for c in crashes), "runners"
        ),
        shown("crash, jobs that ended meanwhile", sum(c.ended for c in crashes), "jobs"),
    ]


async def _crash(folder: Path, after_creates: int) -> _Crash:
    fleet = Fleet(repositories=_REPOSITORIES)
    async with limiting_forge(folder, fleet, _REGISTRATION_SECONDS) as forge:
        fleet = Fleet(repositories=_REPOSITORIES, forge_url=forge.url)
        async with site(folder / "site", fleet) as one, Farm(one.grpc, _HOSTS) as farm:
            requests = queued_over(forge.url, fleet.names(), FIRST_JOB, _JOBS)
            finishing = Finishing(farm, forge.url, fleet.names())
            running = asyncio.create_task(finishing.run(one.http_port, _repositories(one)))
            waiting = list(reversed(requests))
            sending = [asyncio.create_task(_send(one.http_port, waiting)) for _ in range(_CONNECTIONS)]
            if not await farm.until_made(after_creates, _PATIENCE_SECONDS):
                raise BenchmarkFailed(f"only {len(farm.made)} of {_JOBS} jobs got a machine before any crash")
            await one.kill()
            unanswered = [request for sent in await asyncio.gather(*sending) for request in sent]
            await running
            return await _again(one, farm, finishing, unanswered + waiting, fleet)


async def _again(one: Site, farm: Farm, finishing: Finishing, requests: list[bytes], fleet: Fleet) -> _Crash:
    began = time.monotonic()
    await one.start()
    running = asyncio.create_task(finishing.run(one.http_port, _repositories(one)))
    left = await asyncio.gather(*(_send(one.http_port, requests) for _ in range(_CONNECTIONS)))
    if any(left) or requests:
        raise BenchmarkFailed("the restarted coordinator does not take webhooks")
    await farm.until_made(_JOBS, _PATIENCE_SECONDS)
    unmatched = await _matched(farm, finishing, fleet)
    await asyncio.sleep(_QUIET_SECONDS)
    running.cancel()
    one.check()
    after = [made.at for made in farm.made if made.at > began]
    if not after:
        raise BenchmarkFailed("nothing was left to be made after the crash")
    ended = finishing.ended.total()
    return _Crash(after[0] - began, after[-1] - began, *_lost_and_doubled(one, farm, finishing), ended, unmatched)


def _repositories(one: Site) -> dict[str, str]:
    """Of the pools, by their ids."""
    query = "SELECT p.id, e.owner || '/' || e.name FROM pools p JOIN entities e ON e.id = p.entity_id"
    with closing(sqlite3.connect(f"file:{one.database}?mode=ro", uri=True)) as connection:
        return dict(connection.execute(query).fetchall())


def _standing(farm: Farm) -> dict[str, Made]:
    gone = set(farm.deleted)
    return {made.instance_id: made for made in farm.made if made.instance_id not in gone}


async def _matched(farm: Farm, finishing: Finishing, fleet: Fleet) -> int:
    """How many runners at the forge and machines that stand are without the other, when that has settled."""
    unmatched = 0
    for _ in range(_SETTLE_LOOKS):
        machines = _standing(farm).values()
        names = {name for repository in fleet.names() for name in await runners(fleet.forge_url, repository)}
        unmatched = len((names - finishing.runners) ^ ({made.name for made in machines} - finishing.runners))
        if not unmatched and len(farm.deleted) >= len(finishing.runners):
            break
        await asyncio.sleep(1)
    return unmatched


def _lost_and_doubled(one: Site, farm: Farm, finishing: Finishing) -> tuple[int, int]:
    """The jobs of a repository are alike, so it does not matter which machine is whose: there must be as many as jobs,
    and as many must stand as have not ended. A job may be lost from the ledger, or be there and have no machine.
    """
    sent = Counter(repository for _, repository in zip(range(_JOBS), cycle(Fleet(repositories=_REPOSITORIES).names())))
    query = "SELECT e.owner || '/' || e.name, count(*) FROM jobs j JOIN entities e ON e.id = j.entity_id GROUP BY 1"
    with closing(sqlite3.connect(f"file:{one.database}?mode=ro", uri=True)) as connection:
        known = dict[str, int](connection.execute(query).fetchall())
    repository_of = _repositories(one)
    commands = Counter(made.instance_id for made in farm.made)
    made = Counter(repository_of[pool_id] for pool_id in {one.instance_id: one.pool_id for one in farm.made}.values())
    standing = Counter(repository_of[machine.pool_id] for machine in _standing(farm).values())
    lost = sum(
        count - min(known.get(name, 0), standing[name] + finishing.ended[name], count) for name, count in sent.items()
    )
    doubled = sum(max(made[name] - count, 0) for name, count in sent.items())
    return lost, doubled + sum(count - 1 for count in commands.values())


async def _send(port: int, waiting: list[bytes]) -> list[bytes]:
    """Send from the end of the list; returns the one that the other side left unanswered when it went."""
    hook = await Hook.open(port)
    while waiting:
        request = waiting.pop()
        try:
            hook.send(request)
            await hook.answered()
        except (OSError, asyncio.IncompleteReadError):
            return [request]
    hook.close()
    return []
