"""How long a webhook takes to become a command at the agent, or a started executable, one job at a time.

The forge answers at once.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from protos.hostler.v1 import admin_pb2
from protos.hostler.v1 import fleet_pb2 as pb
from tests.bench import cloud
from tests.bench.cloud import Cloud
from tests.bench.fleet import Fleet
from tests.bench.load import length, status
from tests.bench.results import BenchmarkFailed, Result, at_most, percentile, shown
from tests.bench.site import Site, forge, site
from tests.bench.webhooks import FIRST_JOB, Deliveries
from tests.bench.wire_agent import WireAgent

if TYPE_CHECKING:
    from protos.hostler.v1.admin_pb2_grpc import AdminAsyncStub

_JOBS: Final = 200
_WARM_UP: Final = 10
_POLL_SECONDS: Final = 0.002
_QUIET_SECONDS: Final = 0.01  # in which what follows a deletion is done, like the runner's deregistration
_PARTS: Final = (("webhook", "committed"), ("committed", "planned"), ("planned", "dispatched"))


async def run(folder: Path) -> list[Result]:
    repository = Fleet().names()[0]
    async with forge(folder, repository) as forge_url:
        fleet = Fleet(forge_url=forge_url)
        async with site(folder / "site", fleet) as one, WireAgent(one.grpc) as agent:
            hook = await Hook.open(one.http_port)
            way = _Way(hook, agent, Deliveries(forge_url, repository))
            taken = [await way.of_one(FIRST_JOB + n) for n in range(_WARM_UP + _JOBS)][_WARM_UP:]
            hook.close()
            jobs = await _jobs(one, range(FIRST_JOB + _WARM_UP, FIRST_JOB + _WARM_UP + _JOBS))
    return [
        at_most("latency, webhook to CreateInstance, p50", percentile(taken, 50), "ms", 10),
        at_most("latency, webhook to CreateInstance, p99", percentile(taken, 99), "ms", 50),
        *(_part(jobs, begin, end) for begin, end in _PARTS),
        *await _to_executable(folder),
    ]


async def _to_executable(folder: Path) -> list[Result]:
    repository = Fleet().names()[0]
    async with Cloud(folder / "cloud") as provider, forge(folder, repository) as forge_url:
        fleet = Fleet(forge_url=forge_url, provider=cloud.NAME)
        async with site(folder / "site-of-cloud", fleet, provider.toml) as one:
            hook = await Hook.open(one.http_port)
            deliveries = Deliveries(forge_url, repository)
            taken: list[float] = []
            async with one.admin() as admin:
                for n in range(_WARM_UP + _JOBS):
                    taken.append(await _of_cloud(hook, provider, deliveries, FIRST_JOB + n))
                    await _all_gone(admin)
            hook.close()
            one.check()
    return [
        at_most("latency, webhook to the executable's start, p50", percentile(taken[_WARM_UP:], 50), "ms", 10),
        at_most("latency, webhook to the executable's start, p99", percentile(taken[_WARM_UP:], 99), "ms", 50),
    ]


async def _of_cloud(hook: "Hook", provider: Cloud, deliveries: Deliveries, job_id: int) -> float:
    """Milliseconds from the first byte of the webhook to the first line that the executable says."""
    sent_at = time.perf_counter()
    hook.send(deliveries.queued(job_id))
    started = await provider.next("CreateInstance")
    await hook.answered()
    name = (await provider.next("Named")).subject
    for request in (deliveries.in_progress(job_id, name), deliveries.completed(job_id, name)):
        hook.send(request)
        await hook.answered()
    await provider.next("DeleteInstance")
    return (started.at - sent_at) * 1000


async def _all_gone(admin: "AdminAsyncStub") -> None:
    """Returns when the machine is deleted as far as the coordinator knows, and nothing is done for it any more."""
    while (await admin.FleetStatus(admin_pb2.FleetStatusRequest())).instances:
        await asyncio.sleep(_POLL_SECONDS)
    await asyncio.sleep(_QUIET_SECONDS)


class Hook:
    """One connection of the forge to the coordinator, kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, request: bytes) -> None:
        self._writer.write(request)

    async def answered(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readexactly(length(head))
        if status(head) != 200:
            raise BenchmarkFailed(f"a webhook was answered with {status(head)}")

    def close(self) -> None:
        self._writer.close()


class _Way:
    """The whole way of a job, so that each begins on an empty fleet."""

    def __init__(self, hook: Hook, agent: WireAgent, deliveries: Deliveries) -> None:
        self._hook = hook
        self._agent = agent
        self._deliveries = deliveries

    async def of_one(self, job_id: int) -> float:
        """Milliseconds from the first byte of the webhook to the whole command at the agent."""
        request = self._deliveries.queued(job_id)
        sent_at = time.perf_counter()
        self._hook.send(request)
        created = await self._agent.next_create()
        await self._hook.answered()
        await self._rest(job_id, created.command)
        return (created.at - sent_at) * 1000

    async def _rest(self, job_id: int, create: pb.CreateInstance) -> None:
        instance = create.instance_id
        self._agent.report(instance, create.generation, pb.PHASE_ACCEPTED, pb.PHASE_DISK, pb.PHASE_STARTED)
        await self._agent.all_acknowledged()
        for request in (
            self._deliveries.in_progress(job_id, create.name),
            self._deliveries.completed(job_id, create.name),
        ):
            self._hook.send(request)
            await self._hook.answered()
        delete = await self._agent.next_delete()
        if delete.instance_id != instance:
            raise BenchmarkFailed(f"instance {delete.instance_id} was deleted instead of {instance}")
        self._agent.report(instance, delete.generation, pb.PHASE_DELETED)
        await self._agent.all_acknowledged()


async def _jobs(one: Site, forge_ids: range) -> list[admin_pb2.Job]:
    async with one.admin() as admin:
        return [await admin.GetJob(admin_pb2.GetJobRequest(id=str(forge_id))) for forge_id in forge_ids]


def _part(jobs: Sequence[admin_pb2.Job], begin: str, end: str) -> Result:
    """One part of the way by the timelines that the coordinator keeps."""
    values = [(_at(job, end) - _at(job, begin)) * 1000 for job in jobs]
    return shown(f"latency, {begin} to {end}, p50", percentile(values, 50), "ms")


def _at(job: admin_pb2.Job, step: str) -> float:
    for entry in job.timeline:
        if entry.step == step:
            return entry.at.ToNanoseconds() / 1e9
    raise BenchmarkFailed(f"job {job.forge_job_id} has no '{step}' in its timeline")
