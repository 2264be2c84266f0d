"""What a coordinator at rest uses: 50 pools, 1,000 jobs that wait for room, one host connected."""

import asyncio
import time
from pathlib import Path
from typing import Final

from tests.bench.fleet import Fleet
from tests.bench.generator import send_all
from tests.bench.machine import cpu_seconds, rss_mib
from tests.bench.results import BenchmarkFailed, Result, at_most
from tests.bench.site import Site, site
from tests.bench.webhooks import FIRST_JOB, queued_over
from tests.bench.wire_agent import NO_ROOM, WireAgent

_FLEET: Final = Fleet(repositories=10, pools_each=5)
_JOBS: Final = 1_000
_SECONDS: Final = 30.0
_OFTEN: Final = "[planner]\npatrol_seconds = 30\npoll_seconds = 30"
"""One patrol and one poll of each repository fall into the time that is measured, and one reading of everything is put
there: four, ten and ten times as often as ever. So do two heartbeats."""
_CALM_BELOW: Final = 0.03
_CALM_WITHIN_SECONDS: Final = 30.0


async def run(folder: Path) -> list[Result]:
    async with site(folder / "site", _FLEET, _OFTEN) as one, WireAgent(one.grpc, capacity=NO_ROOM):
        requests = queued_over(_FLEET.forge_url, _FLEET.names(), FIRST_JOB, _JOBS)
        await send_all(folder, one.http_port, requests, 8)
        await _calm(one)
        began, cpu = time.monotonic(), cpu_seconds(one.pid)
        one.sweep()
        await asyncio.sleep(_SECONDS)
        share = (cpu_seconds(one.pid) - cpu) / (time.monotonic() - began)
        one.check()
        return [
            at_most("memory at rest, 50 pools, 1000 jobs", rss_mib(one.pid), "MiB", 150),
            at_most("CPU at rest, 50 pools, 1000 jobs", share * 100, "% of a core", 1),
        ]


async def _calm(one: Site) -> None:
    """Until what the jobs set going has ended."""
    until = time.monotonic() + _CALM_WITHIN_SECONDS
    while time.monotonic() < until:
        before = cpu_seconds(one.pid)
        await asyncio.sleep(1)
        if cpu_seconds(one.pid) - before < _CALM_BELOW:
            return
    raise BenchmarkFailed("the coordinator does not come to rest")
