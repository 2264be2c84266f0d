"""A whole farm in one process: forge simulator, the real coordinator, and real agents with simulated machines."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import grpc

from agent.backoff import Backoff
from agent.config import CapacitySection, CoordinatorSection, HostSection
from agent.daemon import Agent
from agent.with_simulated import SimulatedConfig
from coordinator import coordinator
from coordinator.config import CoordinatorConfig, DatabaseTable, Grpc, Http
from protos.hostler.v1 import admin_pb2
from protos.hostler.v1.admin_pb2_grpc import AdminStub

if TYPE_CHECKING:
    from protos.hostler.v1.admin_pb2_grpc import AdminAsyncStub
from providers.contract import InstanceSpec
from providers.exec.settings import ExecSettings
from providers.simulated import SimulatedProvider, SimulatedSettings
from tests.forge_simulator.simulator import ForgeSimulator

REPOSITORY = "octo/widgets"
SECRET = "a-webhook-secret-of-the-tests"
LABELS = ("self-hosted", "linux")
Condition = Callable[[admin_pb2.FleetStatusResponse], bool]
QUICK = SimulatedSettings(disk_seconds=0.0, start_seconds=0.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def document(forge: ForgeSimulator, token: str, *, pools: Iterable[str]) -> str:
    """What `hostler apply` would declare for the simulator's repository."""
    owner, name = REPOSITORY.split("/")
    return "\n".join(
        [
            f'[[endpoint]]\nname = "forge"\nbase_url = "{forge.base_url}"\napi_base_url = "{forge.api_url}"',
            f'[[credentials]]\nname = "token"\nendpoint = "forge"\ntoken = "{token}"',
            f'[[repository]]\nendpoint = "forge"\nowner = "{owner}"\nname = "{name}"\ncredentials = "token"',
            f'webhook_secret = "{SECRET}"',
            '[[flavor]]\nname = "small"\nvcpus = 1\nmemory_mib = 64\ndisk_gib = 1',
            *pools,
        ]
    )


def pool(name: str = "small", *, provider: str = "simulated", labels: Iterable[str] = LABELS, more: str = "") -> str:
    return (
        f'[[pool]]\nname = "{name}"\nendpoint = "forge"\nrepository = "{REPOSITORY}"\nprovider = "{provider}"\n'
        f'image = "simulated"\nflavor = "small"\nlabels = {json.dumps(list(labels))}\n{more}'
    )


class Guest:
    """What runs inside a simulated machine: the calls of a Linux runner, then one job."""

    def __init__(self) -> None:
        self.provider: SimulatedProvider | None = None
        self.hold_job = asyncio.Event()  # jobs end only while it is set
        self.hold_job.set()
        self.tokens: dict[str, str] = {}
        self.fail_boot = False

    async def __call__(self, spec: InstanceSpec) -> None:
        self.tokens[spec.name] = spec.bootstrap.token
        if self.fail_boot:
            raise RuntimeError("kernel panic")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40)) as session:
            files = await self._bootstrap(session, spec)
            await self._run_job(session, files)
        assert self.provider is not None
        await self.provider.power_off(spec.instance_id)

    async def _bootstrap(self, session: aiohttp.ClientSession, spec: InstanceSpec) -> dict[str, bytes]:
        told = spec.bootstrap
        headers = {"Authorization": f"Bearer {told.token}"}
        await self._say(session, told.callback_url, headers, "installing", "booted")
        files = {}
        for name in ("runner", "credentials", "credentials_rsaparams"):
            async with session.get(f"{told.metadata_url}/credentials/{name}", headers=headers) as answer:
                answer.raise_for_status()
                files[name] = await answer.read()
        await self._say(session, told.callback_url, headers, "idle", "up")
        return files

    async def _say(
        self, session: aiohttp.ClientSession, url: str, headers: dict[str, str], status: str, message: str
    ) -> None:
        body = {"status": status, "message": message}
        async with session.post(f"{url}/status", headers=headers, json=body) as answer:
            answer.raise_for_status()

    async def _run_job(self, session: aiohttp.ClientSession, files: dict[str, bytes]) -> None:
        server = json.loads(files["runner"])["serverUrl"]
        headers = {"Authorization": f"Bearer {json.loads(files['credentials'])['data']['token']}"}
        async with session.post(f"{server}/session", headers=headers) as answer:
            answer.raise_for_status()
        text = ""
        while not text:
            async with session.get(f"{server}/job", headers=headers) as answer:
                answer.raise_for_status()
                text = await answer.text() if answer.status == 200 else ""
        job = text.split("\n", 1)[0].removeprefix("job ").strip()
        await self.hold_job.wait()
        async with session.post(f"{server}/job/{job}/complete?result=success", headers=headers) as answer:
            answer.raise_for_status()


class Farm:
    """Started by `farm()`. Its parts can be stopped and started again."""

    def __init__(self, directory: Path, clouds: Iterable[ExecSettings] = ()) -> None:
        self.directory = directory
        self.forge = ForgeSimulator()
        self.guest = Guest()
        self.http_port, self.grpc_port = free_port(), free_port()
        self.config = CoordinatorConfig(
            data_dir=str(directory / "coordinator"),
            http=Http(bind=f"127.0.0.1:{self.http_port}", public_url=f"http://127.0.0.1:{self.http_port}"),
            grpc=Grpc(bind=f"127.0.0.1:{self.grpc_port}"),
            database=DatabaseTable(url=f"sqlite:///{directory}/coordinator/hostler.db"),
            provider=list(clouds),
        )
        Path(self.config.data_dir).mkdir(exist_ok=True, mode=0o700)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.token = ""
        self._running: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}

    async def start(self) -> None:
        await self.forge.start()
        self.forge.add_repository(REPOSITORY)
        self.token = self.forge.add_token(REPOSITORY).value
        self.hook = self.forge.add_hook(REPOSITORY, f"{self.url}/webhooks", SECRET)
        await self.start_coordinator()

    async def start_coordinator(self) -> None:
        stop = asyncio.Event()
        self._running["coordinator"] = (asyncio.create_task(coordinator.run(self.config, stop)), stop)
        await self._until_it_answers()

    async def _until_it_answers(self) -> None:
        task, _ = self._running["coordinator"]
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while True:
                if task.done():
                    task.result()
                with suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/healthz"):
                        return
                await asyncio.sleep(0.02)

    async def start_agent(self, host: str = "host-1", settings: SimulatedSettings = QUICK) -> SimulatedProvider:
        config = SimulatedConfig(
            data_dir=str(self.directory / host),
            host=HostSection(name=host),
            coordinator=CoordinatorSection(address=f"127.0.0.1:{self.grpc_port}"),
            capacity=CapacitySection(reserved_memory_mib=0, reserved_disk_gib=0, cpu_overcommit=16.0),
            simulated=settings,
        )
        provider = SimulatedProvider(settings, directory=config.instances_path, on_start=self.guest)
        self.guest.provider = provider
        agent = Agent(config, provider, reconnect=Backoff(first_seconds=0.05, most_seconds=0.2))
        stop = asyncio.Event()
        self._running[host] = (asyncio.create_task(agent.run(stop)), stop)
        return provider

    async def stop(self, part: str) -> None:
        task, stop = self._running.pop(part)
        stop.set()
        await task

    async def close(self) -> None:
        for part in reversed(list(self._running)):
            with suppress(asyncio.CancelledError):
                await self.stop(part)
        await self.forge.stop()

    @asynccontextmanager
    async def admin(self) -> AsyncIterator["AdminAsyncStub"]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            yield AdminStub(channel)

    async def declare(self, *pools: str) -> list[str]:
        async with self.admin() as admin:
            text = document(self.forge, self.token, pools=pools or (pool(),))
            answer = await admin.Apply(admin_pb2.ApplyRequest(document=text))
            return list(answer.changes)

    async def status(self) -> admin_pb2.FleetStatusResponse:
        async with self.admin() as admin:
            answer: admin_pb2.FleetStatusResponse = await admin.FleetStatus(admin_pb2.FleetStatusRequest())
            return answer

    async def job(self, forge_job_id: int) -> admin_pb2.Job:
        async with self.admin() as admin:
            answer: admin_pb2.Job = await admin.GetJob(admin_pb2.GetJobRequest(id=str(forge_job_id)))
            return answer

    async def jobs(self) -> list[admin_pb2.Job]:
        async with self.admin() as admin:
            answer = await admin.ListJobs(admin_pb2.ListJobsRequest(all=True))
            return list(answer.jobs)

    async def until_host_connected(self, name: str = "host-1") -> None:
        await self.until(lambda status: any(host.connected and host.name == name for host in status.hosts))

    async def until_empty(self) -> None:
        """No instance is left."""
        await self.until(lambda status: not status.instances)

    async def until(self, holds: Condition, seconds: float = 20.0) -> admin_pb2.FleetStatusResponse:
        async with asyncio.timeout(seconds):
            while not holds(status := await self.status()):
                await asyncio.sleep(0.02)
        return status


@asynccontextmanager
async def farm(directory: Path, clouds: Iterable[ExecSettings] = ()) -> AsyncIterator[Farm]:
    one = Farm(directory, clouds)
    try:
        await one.start()
        yield one
    finally:
        await one.close()
