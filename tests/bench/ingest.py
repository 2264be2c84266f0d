"""How many distinct queued jobs a second are taken durably while many others wait for room."""

from pathlib import Path
from typing import Final

from tests.bench.fleet import Fleet
from tests.bench.generator import send_all
from tests.bench.results import Result, at_least, at_most, percentile, shown
from tests.bench.site import site
from tests.bench.webhooks import FIRST_JOB, queued_over
from tests.bench.wire_agent import NO_ROOM, WireAgent

_CONNECTIONS: Final = (8, 32)
_WAITING: Final = 2_000
_MEASURED: Final = 4_000
_FLEET: Final = Fleet(repositories=8)


async def run(folder: Path) -> list[Result]:
    return [result for connections in _CONNECTIONS for result in await _with(folder / str(connections), connections)]


async def _with(folder: Path, connections: int) -> list[Result]:
    """On a coordinator of its own, so that each count of connections begins with as many jobs waiting."""
    requests = queued_over(_FLEET.forge_url, _FLEET.names(), FIRST_JOB, _WAITING + _MEASURED)
    async with site(folder, _FLEET) as one, WireAgent(one.grpc, capacity=NO_ROOM):
        await send_all(folder, one.http_port, requests[:_WAITING], 32)
        loaded = await send_all(folder, one.http_port, requests[_WAITING:], connections)
        one.check()
    name = f"ingest, {connections} connections"
    return [
        at_least(name, loaded.per_second, "requests/s", 2_500),
        at_most(f"{name}, p99", percentile(loaded.latencies_ms, 99), "ms", 60),
        shown(f"{name}, load generator", loaded.generator_cpu * 100, "% of a core"),
    ]
