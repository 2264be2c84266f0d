"""One run of the demo: start the farm, queue the jobs, watch them, check that all was real and nothing is left."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp
import grpc
import libvirt
import msgspec

from protos.hostler.v1 import admin_pb2
from protos.hostler.v1.admin_pb2_grpc import AdminStub
from providers.libvirt.network import ensure_network
from providers.libvirt.settings import LibvirtSettings
from tests.demo.failed import DemoFailed
from tests.demo.farm import Farm
from tests.demo.forge import Control, QueuedJob
from tests.demo.places import Guest, Places
from tests.demo.show import SHOWN, SHOWN_IN_CLOUD, Show, webhook_at
from tests.demo.traces import URI, look

if TYPE_CHECKING:
    from protos.hostler.v1.admin_pb2_grpc import AdminAsyncStub

_CONNECT_SECONDS: Final = 60.0


class Asked(msgspec.Struct, frozen=True):
    jobs: int
    keep: bool
    guest: Guest
    timeout_seconds: float


class Run:
    def __init__(self, settings: LibvirtSettings, places: Places, show: Show, lock: int) -> None:
        self._settings = settings
        self._places = places
        self._show = show
        self._lock = lock
        self._named: set[str] = {""}  # jobs and instances that have been given a name for people

    async def __call__(self, asked: Asked) -> None:
        """Raises DemoFailed: something was not as it must be."""
        _cancelled_by_signals()
        await asyncio.to_thread(bring_up_network, self._settings)
        farm = Farm(self._places, self._settings, guest=asked.guest, jobs=asked.jobs, lock=self._lock)
        machines = self._places.machines if farm.in_cloud else self._places.agent_data / "instances"
        try:
            await farm.start()
            async with _admin(farm) as admin:
                if not farm.in_cloud:
                    await self._connected(farm, admin)
                before = await asyncio.to_thread(look, machines)
                async with asyncio.timeout(asked.timeout_seconds):
                    done = await self._run_jobs(farm, admin, asked.jobs)
                left = (await asyncio.to_thread(look, machines)).more_than(before)
            if left:
                raise DemoFailed(f"the machines left behind: {', '.join(left)}")
            self._sum_up(done)
        except TimeoutError:
            raise DemoFailed(f"not done after {asked.timeout_seconds:g} s") from None
        finally:
            if asked.keep:
                self._say_where(farm)
            else:
                await farm.stop()

    async def _connected(self, farm: Farm, admin: "AdminAsyncStub") -> None:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                while True:
                    farm.check_alive()
                    status = await admin.FleetStatus(admin_pb2.FleetStatusRequest())
                    if any(host.connected for host in status.hosts):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise DemoFailed(f"the agent does not connect; see {self._places.log('agent')}") from None

    async def _run_jobs(self, farm: Farm, admin: "AdminAsyncStub", count: int) -> list[admin_pb2.Job]:
        watching = asyncio.create_task(self._watch(admin))
        try:
            async with aiohttp.ClientSession() as session:
                control = Control(session, farm.state())
                await asyncio.sleep(0.1)  # the watch has no answer of its own that says it has begun
                queued = await asyncio.gather(*(control.queue(number) for number in range(1, count + 1)))
                done = [await self._finished(farm, admin, job) for job in queued]
                await self._gone(admin)
                for job, told in zip(queued, done, strict=True):
                    await self._check(farm, admin, control, job, told)
                return [await _get(admin, job) for job in queued]
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, admin: "AdminAsyncStub") -> None:
        async for entry in admin.Watch(admin_pb2.WatchRequest()):
            await self._name(admin, entry)
            self._show.entry(entry)

    async def _name(self, admin: "AdminAsyncStub", entry: admin_pb2.TimelineEntry) -> None:
        """Ids say nothing to people."""
        if entry.job_id not in self._named:
            self._named.add(entry.job_id)
            job = await admin.GetJob(admin_pb2.GetJobRequest(id=entry.job_id))
            self._show.name(entry.job_id, job.name)
        if entry.instance_id not in self._named:
            self._named.add(entry.instance_id)
            for instance in (await admin.FleetStatus(admin_pb2.FleetStatusRequest())).instances:
                self._show.name(instance.id, instance.name)

    async def _finished(self, farm: Farm, admin: "AdminAsyncStub", job: QueuedJob) -> admin_pb2.Job:
        while True:
            farm.check_alive()
            try:
                told = await _get(admin, job)
            except grpc.RpcError:
                told = admin_pb2.Job()  # its webhook is still on its way
            if told.status == "completed":
                return told
            await asyncio.sleep(0.05)

    async def _gone(self, admin: "AdminAsyncStub") -> None:
        while (await admin.FleetStatus(admin_pb2.FleetStatusRequest())).instances:
            await asyncio.sleep(0.05)

    async def _check(
        self, farm: Farm, admin: "AdminAsyncStub", control: Control, job: QueuedJob, told: admin_pb2.Job
    ) -> None:
        """The machine was real: what it said holds what only its shell can have printed."""
        if told.conclusion != "success":
            raise DemoFailed(f"job {job.number} ended with '{told.conclusion}'")
        if farm.in_cloud:  # nobody keeps a cloud's consoles; the forge has what the runner sent
            where, said, steps = "log", str((await control.job(job.forge_id))["log"]), SHOWN_IN_CLOUD
        else:
            console = await admin.GetConsole(admin_pb2.GetConsoleRequest(instance=told.instance_id))
            where, said, steps = "console", console.data.decode(errors="replace"), SHOWN
        for needed in (f"secret {job.secret}", f"proof {job.proof}", f"job runs on {told.runner_name}"):
            if needed not in said:
                raise DemoFailed(f"job {job.number}: the {where} of {told.runner_name} does not hold '{needed}'")
        missing = steps - {entry.step for entry in (await _get(admin, job)).timeline}
        if missing:
            raise DemoFailed(f"job {job.number}: its timeline lacks {', '.join(sorted(missing))}")

    def _sum_up(self, done: list[admin_pb2.Job]) -> None:
        machines = {job.instance_id for job in done}
        if len(machines) != len(done):
            raise DemoFailed(f"{len(done)} jobs shared {len(machines)} machines")
        for number, job in enumerate(done, start=1):
            self._show.job(number, job)
        seconds = max((job.timeline[-1].at.ToDatetime() - webhook_at(job)).total_seconds() for job in done)
        jobs = "1 job" if len(done) == 1 else f"{len(done)} jobs"
        self._show.summary(
            f"{jobs} done, each in a machine of its own, nothing left behind; "
            f"{seconds:.1f} s from webhook to destroyed, at most.",
            ok=True,
            jobs=len(done),
            seconds=round(seconds, 3),
        )

    def _say_where(self, farm: Farm) -> None:
        self._show.note(
            f"kept: configuration, logs and data in {self._places.folder}\n"
            f"  look:  .venv/bin/hostler fleet status --coordinator {farm.grpc}\n"
            f"  stop:  .venv/bin/python -m tests.demo.stop {self._places.folder}"
        )


def _cancelled_by_signals() -> None:
    """However the demo is told to end, it clears up."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def bring_up_network(settings: LibvirtSettings) -> None:
    """Before the parts start: they listen on its gateway."""
    conn = libvirt.open(URI)
    ensure_network(conn, settings)
    conn.close()


@asynccontextmanager
async def _admin(farm: Farm) -> AsyncIterator["AdminAsyncStub"]:
    async with grpc.aio.insecure_channel(farm.grpc) as channel:
        yield AdminStub(channel)


async def _get(admin: "AdminAsyncStub", job: QueuedJob) -> admin_pb2.Job:
    told: admin_pb2.Job = await admin.GetJob(admin_pb2.GetJobRequest(id=str(job.forge_id)))
    return told
