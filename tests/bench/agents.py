"""10,000 agents on one coordinator, each on its own connection: what they cost at rest, and how soon a create comes."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from tests.bench.fleet import Fleet
from tests.bench.latency import Hook
from tests.bench.machine import cpu_seconds, rss_mib
from tests.bench.processes import ROOT, python
from tests.bench.results import BenchmarkFailed, Result, at_most, percentile, shown
from tests.bench.site import Site, site
from tests.bench.webhooks import FIRST_JOB, Deliveries

_AGENTS: Final = 10_000
_FILES: Final = 2 * _AGENTS  # of one process: a socket each, and some more
_SECONDS: Final = 30.0  # two heartbeats of each
_SETTLE_SECONDS: Final = 5.0
_JOBS: Final = 200
_JOBS_MEANWHILE: Final = 20
_CONNECT_SECONDS: Final = 120.0
_CREATE_SECONDS: Final = 10.0


async def run(folder: Path) -> list[Result]:
    _allow_files()
    fleet = Fleet()
    name = f"fleet, {_AGENTS} agents"
    async with site(folder / "site", fleet) as one:
        empty = rss_mib(one.pid)
        began, cpu = time.monotonic(), cpu_seconds(one.pid)
        async with _agents(one.grpc_port) as agents:
            await agents.until_connected()
            connecting, connecting_cpu = time.monotonic() - began, cpu_seconds(one.pid) - cpu
            await asyncio.sleep(_SETTLE_SECONDS)
            share, generator = await _at_rest(one, agents)
            rss = rss_mib(one.pid)
            taken = [await _create(one, agents, job) for job in range(_JOBS)]
            one.sweep()
            meanwhile = [await _create(one, agents, _JOBS + job) for job in range(_JOBS_MEANWHILE)]
            agents.check()
            one.check()
            await one.kill()
    return [
        at_most(f"{name}, at rest", share, "cores", 0.4),
        at_most(f"{name}, RSS", rss, "MiB", 1024),
        at_most(f"{name}, webhook to its agent, p99", percentile(taken, 99), "ms", 50),
        shown(f"{name}, webhook to its agent, p50", percentile(taken, 50), "ms"),
        shown(f"{name}, while everything is read anew, longest", max(meanwhile), "ms"),
        shown(f"{name}, memory of one agent", (rss - empty) * 1024 / _AGENTS, "KiB"),
        shown(f"{name}, all connected", connecting, "s"),
        shown(f"{name}, all connected, CPU time", connecting_cpu, "s"),
        shown(f"{name}, generator at rest", generator, "cores"),
    ]


def _allow_files() -> None:
    """Each connection is a file; what we start inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(soft, min(_FILES, hard))
    if needed < _AGENTS + 500:
        raise BenchmarkFailed(f"{_AGENTS} connections need as many open files, {hard} are allowed: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _at_rest(one: Site, agents: "_Agents") -> tuple[float, float]:
    """Shares of a core: the coordinator's and the load generator's."""
    pids = (one.pid, agents.pid)
    began, before = time.monotonic(), [cpu_seconds(pid) for pid in pids]
    one.sweep()  # ten times as often as ever
    await asyncio.sleep(_SECONDS)
    seconds = time.monotonic() - began
    mine, generator = ((cpu_seconds(pid) - was) / seconds for pid, was in zip(pids, before, strict=True))
    return mine, generator


async def _create(one: Site, agents: "_Agents", job: int) -> float:
    """Milliseconds from the first byte of a webhook to the whole command at an agent, by one clock."""
    hook = await Hook.open(one.http_port)
    request = Deliveries(Fleet().forge_url, Fleet().names()[0]).queued(FIRST_JOB + job)
    sent_at = time.monotonic()
    hook.send(request)
    at = await agents.next_create()
    await hook.answered()
    hook.close()
    return (at - sent_at) * 1000


class _Agents:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._connected = asyncio.Event()
        self._creates: asyncio.Queue[float] = asyncio.Queue()
        self._lost = 0
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, port: int) -> Self:
        command = [*python("tests.bench.fleet_client"), str(port), str(_AGENTS)]
        return cls(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT))

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            match line.split():
                case [b"connected", _]:
                    self._connected.set()
                case [b"create", _, _, at]:
                    self._creates.put_nowait(float(at))
                case [b"lost", *_]:
                    self._lost += 1

    async def until_connected(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._connected.wait()
        except TimeoutError:
            raise BenchmarkFailed(f"{_AGENTS} agents are not connected after {_CONNECT_SECONDS:.0f} s") from None
        self.check()

    async def next_create(self) -> float:
        async with asyncio.timeout(_CREATE_SECONDS):
            return await self._creates.get()

    def check(self) -> None:
        """Raises BenchmarkFailed: not all are connected any more."""
        if self._lost or self._process.returncode is not None:
            raise BenchmarkFailed(f"{self._lost} agents have lost their streams")

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._reading.cancel()


@asynccontextmanager
async def _agents(port: int) -> AsyncIterator[_Agents]:
    agents = await _Agents.start(port)
    try:
        yield agents
    finally:
        await agents.stop()
