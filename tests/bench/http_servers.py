"""HTTP servers compared under our webhook application. Each request is read, parsed and verified, none is committed.

So it is the server's own part that shows; docs/decisions/http-server.md says what was decided by it.
"""

import importlib.util
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tests.bench.fleet import Fleet
from tests.bench.generator import send_file
from tests.bench.http_server import SERVERS, UVLOOP
from tests.bench.load import Loaded
from tests.bench.machine import rss_mib
from tests.bench.processes import Processes, answers, free_port, python
from tests.bench.results import Result, percentile, shown
from tests.bench.webhooks import Deliveries

_BASE: Final = "uvicorn+httptools"
_CONNECTIONS: Final = (8, 32)
_REQUESTS: Final = 3_000
_ROUNDS: Final = 5


class _Served(NamedTuple):
    per_second: dict[int, float]  # by connections
    p99: dict[int, float]
    rss: float
    generator: float  # share of a core that the load generator used, at most


async def run(folder: Path) -> list[Result]:
    names = [name for name in SERVERS if name != UVLOOP or importlib.util.find_spec("uvloop")]
    requests = folder / "requests.msgpack"
    delivery = Deliveries(Fleet().forge_url, Fleet().names()[0]).without_demand()
    requests.write_bytes(msgspec.msgpack.encode([delivery] * _REQUESTS))
    async with Processes(folder) as processes:
        served = await _measure(folder, processes, requests, names)
    return _absolute(served[_BASE]) + [
        result for name in names if name != _BASE for result in _ratios(name, served[name], served[_BASE])
    ]


async def _measure(folder: Path, processes: Processes, requests: Path, names: list[str]) -> dict[str, _Served]:
    """In rounds over all servers, the best of each counts: what else the machine does only ever slows a round down."""
    ports = {name: free_port() for name in names}
    pids = {name: await _start(folder, processes, name, ports[name]) for name in names}
    for port in ports.values():
        await send_file(requests, port, 8)
    runs: dict[tuple[str, int], list[Loaded]] = {}
    for _ in range(_ROUNDS):
        for connections in _CONNECTIONS:
            for name, port in ports.items():
                runs.setdefault((name, connections), []).append(await send_file(requests, port, connections))
    return {
        name: _Served(
            {c: max(one.per_second for one in runs[name, c]) for c in _CONNECTIONS},
            {c: min(percentile(one.latencies_ms, 99) for one in runs[name, c]) for c in _CONNECTIONS},
            rss_mib(pids[name]),
            max(one.generator_cpu for connections in _CONNECTIONS for one in runs[name, connections]),
        )
        for name in names
    }


async def _start(folder: Path, processes: Processes, name: str, port: int) -> int:
    data = folder / name.replace(" ", "-")
    data.mkdir()
    command = [*python("tests.bench.http_server"), name, "--port", str(port), "--folder", str(data)]
    return await processes.start(data.name, command, lambda: answers(port))


def _absolute(served: _Served) -> list[Result]:
    results = []
    for connections in _CONNECTIONS:
        name = f"http, {_BASE}, {connections} connections"
        results.append(shown(name, served.per_second[connections], "requests/s"))
        results.append(shown(f"{name}, p99", served.p99[connections], "ms"))
    results.append(shown(f"http, {_BASE}, load generator", served.generator * 100, "% of a core"))
    return [*results, shown(f"http, {_BASE}, RSS", served.rss, "MiB")]


def _ratios(server: str, served: _Served, base: _Served) -> list[Result]:
    unit = f"of {_BASE}"
    results = []
    for connections in _CONNECTIONS:
        name = f"http, {server}, {connections} connections"
        rate = served.per_second[connections] / base.per_second[connections]
        results.append(shown(f"{name}, requests/s", rate, unit))
        results.append(shown(f"{name}, p99", served.p99[connections] / base.p99[connections], unit))
    return [*results, shown(f"http, {server}, RSS", served.rss / base.rss, unit)]
