"""A whole farm in one process: forge simulator, the real coordinator, and real agents with simulated machines.

Coordinator and agents can also be processes of their own, to be killed. After each scenario: `assert_nothing_left`.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import grpc

from agent.backoff import Backoff
from agent.config import CapacitySection, CoordinatorSection, HostSection
from agent.daemon import Agent
from agent.held import Records
from agent.several import Part, Several
from agent.with_simulated import SimulatedConfig
from coordinator import coordinator
from coordinator.config import CoordinatorConfig, DatabaseTable, Grpc, Http, Metrics, Planner
from protos.hostler.v1 import admin_pb2
from protos.hostler.v1.access_pb2_grpc import AccessStub
from protos.hostler.v1.admin_pb2_grpc import AdminStub
from providers.contract import HostProvider
from providers.exec.settings import ExecSettings
from providers.simulated import SimulatedSettings
from tests.forge_simulator.records import ASKED_FOR, Job
from tests.forge_simulator.simulator import ForgeSimulator
from tests.simulation.declarations import LABELS, REPOSITORY, SECRET, document, pool
from tests.simulation.guests import Guests
from tests.simulation.hosts import Cloud, FarmProvider, ProcessHost
from tests.simulation.processes import Process, free_port, start_agent, start_coordinator

if TYPE_CHECKING:
    from protos.hostler.v1.access_pb2_grpc import AccessAsyncStub
    from protos.hostler.v1.admin_pb2_grpc import AdminAsyncStub

__all__ = ["LABELS", "QUICK", "REPOSITORY", "SECRET", "Farm", "document", "farm", "free_port", "pool"]

PATIENCE_SECONDS: Final = 30.0
QUICK: Final = SimulatedSettings(disk_seconds=0.0, start_seconds=0.0)
FILE_CLOUD: Final = Path(__file__).parents[1] / "fixtures/providers/file-cloud"
Condition = Callable[[admin_pb2.FleetStatusResponse], object]


class Farm:
    """Started by `farm()`. Its parts can be stopped and started again."""

    def __init__(
        self,
        directory: Path,
        *,
        cloud: str = "",
        orphan_grace: timedelta = timedelta(minutes=1),
        patrol_seconds: int = 120,
        poll_seconds: int = 300,
    ) -> None:
        """`cloud`: the name of a provider of the executable `file-cloud`, if there is to be one."""
        self.directory = directory
        self.forge = ForgeSimulator()
        self.guests = Guests(work=self.forge.webhooks.settle)  # a job takes longer than a webhook
        self.ahead = timedelta()  # how far the coordinator's clock is before the real one
        self.providers: dict[str, FarmProvider] = {}  # by host, of the agents in this process
        self.agents: dict[str, Agent] = {}  # the same
        self.hosts: dict[str, ProcessHost] = {}  # those whose agents are processes
        self.cloud = Cloud(directory / "cloud", self.guests)
        self.orphan_grace = orphan_grace
        self.http_port, self.runner_port, self.grpc_port = free_port(), free_port(), free_port()
        self.config = CoordinatorConfig(
            data_dir=str(directory / "coordinator"),
            log_level="warning",
            http=Http(bind=f"127.0.0.1:{self.http_port}", runner_bind=f"127.0.0.1:{self.runner_port}"),
            grpc=Grpc(bind=f"127.0.0.1:{self.grpc_port}"),
            database=DatabaseTable(url=f"sqlite:///{directory}/coordinator/hostler.db"),
            metrics=Metrics(open=True),
            planner=Planner(patrol_seconds=patrol_seconds, poll_seconds=poll_seconds),
            provider=[self._cloud_settings(cloud)] if cloud else [],
        )
        Path(self.config.data_dir).mkdir(exist_ok=True, mode=0o700)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.token = ""
        self._running: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}
        self._processes: dict[str, Process] = {}
        self._watches: list[asyncio.Task[None]] = []

    def _cloud_settings(self, name: str) -> ExecSettings:
        self.cloud.directory.mkdir()
        file = self.directory / "cloud.toml"
        file.write_text(f'directory = "{self.cloud.directory}"\n')
        return ExecSettings(
            name=name,
            executable=str(self.executable(FILE_CLOUD.read_text())),
            config_file=str(file),
            environment=("PATH",),
            timeout_seconds=20,
            appear_seconds=1,
        )

    def executable(self, text: str) -> Path:
        """Make `text` the provider executable."""
        path = self.directory / "provider"
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o755)
        return fresh.replace(path)

    async def start(self) -> None:
        await self.forge.start()
        self.forge.add_repository(REPOSITORY)
        self.token = self.forge.add_token(REPOSITORY, permissions=ASKED_FOR).value
        self.hook = self.forge.add_hook(REPOSITORY, f"{self.url}/webhooks", SECRET)
        self._watches.append(asyncio.create_task(self.cloud.watch()))

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await self.guests.close()
        for part in reversed(list(self._running)):
            with suppress(asyncio.CancelledError):
                await self.stop(part)
        for name in list(self._processes):
            await self.kill(name)
        await self.forge.stop()

    # --- parts in this process ---

    async def start_coordinator(self) -> None:
        stop = asyncio.Event()
        serving = coordinator.run(self.config, stop, clock=self.now, orphan_grace=self.orphan_grace)
        task = asyncio.create_task(serving, name="coordinator")
        self._running["coordinator"] = (task, stop)
        await self._until_it_answers(lambda: task.done() and task.result())

    async def start_agent(
        self,
        host: str = "host-1",
        settings: SimulatedSettings = QUICK,
        *,
        vcpus_for_each: float = 16.0,
        key: str = "",
        address: str | None = None,
    ) -> FarmProvider:
        """An agent. `key`: what it is called here, when two have one host name. `address`: empty: as enrolled."""
        key = key or host
        address = f"127.0.0.1:{self.grpc_port}" if address is None else address
        config = self._agent_config(host, settings, vcpus_for_each, key, address)
        provider = FarmProvider(settings, config.instances_path, self.guests, lambda: self.providers[key])
        self.providers[key] = provider
        await self._start(config, provider, key)
        return provider

    async def start_agent_with(self, *drivers: str, host: str = "host-1", vcpus: int = 16) -> list[FarmProvider]:
        """An agent with a simulated provider for each of these drivers. Found again as `HOST/DRIVER`."""
        config = self._agent_config(
            host, QUICK, vcpus / len(os.sched_getaffinity(0)), host, f"127.0.0.1:{self.grpc_port}"
        )
        made = {name: self._one_of_several(config, f"{host}/{name}", name) for name in drivers}
        parts = [Part(name, provider, [name]) for name, provider in made.items()]
        quick = Backoff(first_seconds=0.05, most_seconds=0.2)
        await self._start(config, Several(parts, Records(config.data_path / "held"), retry=quick), host)
        return list(made.values())

    def _one_of_several(self, config: SimulatedConfig, key: str, name: str) -> FarmProvider:
        before = self.providers.get(key)
        provider = FarmProvider(QUICK, config.data_path / name, self.guests, lambda: self.providers[key], name)
        if before is not None and before.away:
            provider.go_away(before.away)  # its daemon is no part of the agent
        self.providers[key] = provider
        return provider

    async def _start(self, config: SimulatedConfig, provider: HostProvider, key: str) -> None:
        quick = Backoff(first_seconds=0.05, most_seconds=0.2)
        agent = Agent(config, provider, reconnect=quick, delete_retry=quick, create_grace_seconds=0.2)
        self.agents[key] = agent
        stop = asyncio.Event()
        self._running[key] = (asyncio.create_task(agent.run(stop), name=f"agent {key}"), stop)
        await self.until_host_connected(config.host.name)

    def _agent_config(
        self, host: str, settings: SimulatedSettings, overcommit: float, key: str, address: str
    ) -> SimulatedConfig:
        return SimulatedConfig(
            data_dir=str(self.directory / key),
            host=HostSection(name=host),
            coordinator=CoordinatorSection(address=address),
            capacity=CapacitySection(
                reserved_memory_mib=0, reserved_disk_gib=0, low_memory_mib=0, low_disk_gib=0, cpu_overcommit=overcommit
            ),
            simulated=settings,
        )

    async def stop(self, part: str) -> None:
        task, stop = self._running.pop(part)
        stop.set()
        await task

    def running(self, part: str) -> bool:
        return not self._running[part][0].done()

    # --- parts as processes ---

    async def start_coordinator_process(self) -> None:
        process = await start_coordinator(self.directory, self.config)
        self._processes["coordinator"] = process
        await self._until_it_answers(process.check)

    async def start_agent_process(self, host: str = "host-1") -> ProcessHost:
        self._processes[host] = await start_agent(self.directory, host, f"127.0.0.1:{self.grpc_port}")
        if host not in self.hosts:
            self.hosts[host] = ProcessHost(self.directory / host / "instances", self.guests, self.config, self.now)
            self._watches.append(asyncio.create_task(self.hosts[host].watch()))
        await self.until_host_connected(host)
        return self.hosts[host]

    async def kill(self, name: str) -> str:
        """kill -9. Returns what it had said on standard error."""
        return await self._processes.pop(name).kill()

    async def _until_it_answers(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), aiohttp.ClientSession() as session:
            while True:
                check()
                with suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/healthz"):
                        return
                await asyncio.sleep(0.02)

    # --- what people do ---

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def advance(self, time: timedelta) -> None:
        """Put the coordinator's clock forward, and let it look at the time."""
        self.ahead += time
        await self.apply("")

    async def retire_the_idle(self) -> None:
        """Machines that a late webhook asked for, once their job was done, go when nothing came for them for long."""
        await self.until(lambda status: all(i.runner_status != "pending" for i in status.instances))
        await self.until(lambda status: all(i.runner_status != "installing" for i in status.instances))
        await self.advance(timedelta(minutes=3))

    @asynccontextmanager
    async def admin(self) -> AsyncIterator["AdminAsyncStub"]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            yield AdminStub(channel)

    @asynccontextmanager
    async def access(self) -> AsyncIterator["AccessAsyncStub"]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            yield AccessStub(channel)

    async def declare(self, *pools: str) -> list[str]:
        return await self.apply(document(self.forge, self.token, pools=pools or (pool(),)))

    async def take_away_the_permission(self) -> None:
        """The forge refuses runners, until `declare` is called again."""
        weak = self.forge.add_token(REPOSITORY, permissions={"actions": "read"}).value
        await self.apply(document(self.forge, weak, pools=[]))

    async def apply(self, text: str) -> list[str]:
        async with self.admin() as admin:
            answer = await admin.Apply(admin_pb2.ApplyRequest(document=text))
            return list(answer.changes)

    def queue(self, labels: Iterable[str] = LABELS) -> Job:
        return self.forge.queue_job(REPOSITORY, labels, "true")

    async def completed(self, *jobs: Job, conclusion: str = "success") -> list[Job]:
        ended = [await self.forge.wait_completed(job.id, timeout_seconds=60) for job in jobs]
        assert {job.conclusion for job in ended} == {conclusion}
        return ended

    # --- what people see ---

    async def status(self) -> admin_pb2.FleetStatusResponse:
        async with self.admin() as admin:
            answer: admin_pb2.FleetStatusResponse = await admin.FleetStatus(admin_pb2.FleetStatusRequest())
            return answer

    async def job(self, forge_job_id: int) -> admin_pb2.Job:
        async with self.admin() as admin:
            answer: admin_pb2.Job = await admin.GetJob(admin_pb2.GetJobRequest(id=str(forge_job_id)))
            return answer

    async def jobs(self, *, completed: bool = True) -> list[admin_pb2.Job]:
        async with self.admin() as admin:
            answer = await admin.ListJobs(admin_pb2.ListJobsRequest(all=completed))
            return list(answer.jobs)

    def created(self) -> list[str]:
        """Names of the machines that agents in this process were told to make; a repeated command counts again."""
        return [spec.name for provider in self.providers.values() for spec in provider.create_calls]

    async def until_host_connected(self, name: str = "host-1") -> None:
        await self.until(lambda status: any(host.connected and host.name == name for host in status.hosts))

    async def until_instance(self, holds: Callable[[admin_pb2.Instance], object]) -> admin_pb2.Instance:
        """Wait until one instance is so."""
        status = await self.until(lambda status: any(map(holds, status.instances)))
        return next(instance for instance in status.instances if holds(instance))

    async def until_waiting(self, job: Job, part_of_reason: str) -> str:
        """Wait until the coordinator says why no machine comes for a job."""

        said = ""

        async def told() -> bool:
            nonlocal said
            if any(one.forge_job_id == job.id for one in await self.jobs()):  # its webhook has come
                said = (await self.job(job.id)).waiting_reason  # in full: the list is brief
            return part_of_reason in said

        await self.until_true(told)
        return said

    async def until(self, holds: Condition, seconds: float = PATIENCE_SECONDS) -> admin_pb2.FleetStatusResponse:
        last = admin_pb2.FleetStatusResponse()
        began = time.monotonic()
        while True:
            with suppress(grpc.RpcError):  # between a coordinator's lives
                last = await self.status()
                if holds(last):
                    return last
            if time.monotonic() - began > seconds:
                raise AssertionError(f"never came true; {last}")
            await asyncio.sleep(0.02)

    async def until_true(self, holds: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for something that is not told: a file, a list that grows."""
        began = time.monotonic()
        while True:
            held = holds()
            if await held if asyncio.iscoroutine(held) else held:
                return
            assert time.monotonic() - began < seconds, "never came true"
            await asyncio.sleep(0.02)

    # --- the end of every scenario ---

    async def assert_nothing_left(self) -> None:
        """No instances, machines, guests, runners at the forge or work in flight; every job has ended."""
        await self.until(lambda status: not status.instances)
        await self.forge.webhooks.settle()
        await self.until_true(lambda: not self._left())
        assert {job.status for job in await self.jobs()} <= {"completed"}

    def _left(self) -> list[str]:
        machines = [f"machine {r.machine.name}" for p in self.providers.values() for r in p._records.values()]
        machines += [f"machine {name}" for host in self.hosts.values() for name in host.machines()]
        machines += [f"cloud machine {name}" for name in self.cloud.machines()]
        runners = [f"runner {runner.name}" for runner in self.forge.runners(REPOSITORY)]
        guests = [f"guest {name}" for name in self.guests.running()]
        errands = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("errand ")]
        return [*machines, *runners, *guests, *errands]


@asynccontextmanager
async def farm(
    directory: Path,
    *,
    cloud: str = "",
    orphan_grace: timedelta = timedelta(minutes=1),
    patrol_seconds: int = 120,
    poll_seconds: int = 300,
    coordinated: bool = True,
) -> AsyncIterator[Farm]:
    """A farm with its coordinator in this process, unless it is to be started otherwise (`coordinated=False`)."""
    one = Farm(
        directory, cloud=cloud, orphan_grace=orphan_grace, patrol_seconds=patrol_seconds, poll_seconds=poll_seconds
    )
    try:
        await one.start()
        if coordinated:
            await one.start_coordinator()
        yield one
    finally:
        await one.close()
