"""A farm with real machines, and a gate at which their jobs wait: coordinator, agent and forge are processes."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from providers.isolation.rules import port_prefix
from providers.libvirt.settings import LibvirtSettings
from providers.libvirt.store import Record
from tests.demo.farm import LABELS, Farm
from tests.demo.forge import Control
from tests.demo.places import TEST_GUEST, Guest, Places
from tests.demo.run import bring_up_network
from tests.real import machines
from tests.real.conftest import ROOT, SETTINGS

PATIENCE_SECONDS: Final = 120.0


class Gate:
    """Holds jobs until the test lets them go: each asks for its own page, and is answered when the test says what."""

    def __init__(self, address: IPv4Address = SETTINGS.gateway, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.address = address
        self._patience_seconds = patience_seconds
        self.port = 0
        self._asked: dict[str, asyncio.Event] = {}
        self._answers: dict[str, asyncio.Future[str]] = {}

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{name}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, str(self.address), 0).start()
        self.port = runner.addresses[0][1]
        return runner

    def wait(self, name: str) -> str:
        """A shell command that waits at the gate, and prints the answer."""
        return f"wget -q -O - http://{self.address}:{self.port}/{name}"

    async def reached(self, name: str) -> None:
        await asyncio.wait_for(self._asked.setdefault(name, asyncio.Event()).wait(), self._patience_seconds)

    def open(self, name: str, answer: str = "go") -> None:
        self._answer_of(name).set_result(answer)

    def _answer_of(self, name: str) -> "asyncio.Future[str]":
        return self._answers.setdefault(name, asyncio.get_running_loop().create_future())

    async def _answer(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._asked.setdefault(name, asyncio.Event()).set()
        return web.Response(text=await asyncio.shield(self._answer_of(name)))


class World(msgspec.Struct, frozen=True):
    farm: Farm
    gate: Gate
    forge: Control
    patience_seconds: float = PATIENCE_SECONDS

    @property
    def instances(self) -> Path:
        return self.farm.places.agent_data / "instances"

    async def queue(self, script: str, labels: tuple[str, ...] = LABELS) -> int:
        return await self.forge.queue_script(script, labels=labels)

    async def queue_waiting(self, name: str, labels: tuple[str, ...] = LABELS) -> int:
        """A job that waits at the gate; returns when it does."""
        job = await self.queue(f"echo gate says $({self.gate.wait(name)})", labels)
        await self.gate.reached(name)
        return job

    async def ended(self, job: int) -> dict[str, Any]:
        async with asyncio.timeout(self.patience_seconds):
            while (told := await self.forge.job(job))["status"] != "completed":
                await asyncio.sleep(0.1)
        return told

    async def succeeded(self, job: int) -> str:
        """The log of a job that ended well, whose machine is gone and has left nothing."""
        told = await self.ended(job)
        assert told["conclusion"] == "success"
        await self.gone()
        return str(told["log"])

    async def gone(self) -> None:
        async with asyncio.timeout(self.patience_seconds):
            while (await self.status())["instances"] or machines.domains() or list(self.instances.iterdir()):
                await asyncio.sleep(0.1)
        assert self.emulators() == {}
        assert port_prefix(SETTINGS.isolated) not in output("ip", "-oneline", "link")

    async def hostler(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *[str(ROOT / ".venv" / "bin" / "hostler"), *arguments, "--coordinator", self.farm.grpc],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
        return said.decode()

    async def status(self) -> dict[str, Any]:
        return msgspec.json.decode(await self.hostler("fleet", "status", "--json"), type=dict[str, Any])

    async def steps(self, job: int) -> list[str]:
        told = msgspec.json.decode(await self.hostler("job", "show", str(job), "--json"), type=dict[str, Any])
        return [entry["step"] for entry in told["timeline"]]

    async def connected(self) -> None:
        async with asyncio.timeout(self.patience_seconds):
            while not any(host["connected"] for host in (await self.status())["hosts"]):
                await asyncio.sleep(0.1)

    def records(self) -> list[Record]:
        return [msgspec.json.decode(path.read_bytes(), type=Record) for path in self.instances.glob("*/state.json")]

    def emulators(self) -> dict[int, str]:
        return machines.emulators(self.instances)

    def agent_said(self) -> list[dict[str, Any]]:
        """By the log of all agents that there were."""
        lines = self.farm.places.log("agent").read_text().splitlines()
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines if line.startswith("{")]

    def created(self) -> list[str]:
        """The ids of machines as they were begun; begun anew is there twice."""
        return [event["instance"] for event in self.agent_said() if event.get("phase") == "accepted"]


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@asynccontextmanager
async def open_world(
    folder: Path,
    settings: LibvirtSettings = SETTINGS,
    guest: Guest = TEST_GUEST,
    *,
    jobs: int = 1,
    cpu_overcommit: float = 8.0,
) -> AsyncIterator[World]:
    """libvirt must be up and the guest built; room for so many jobs at once. `settings`: on the tests' own network."""
    places = Places(folder)
    places.folder.mkdir(mode=0o711)
    await asyncio.to_thread(bring_up_network, settings)
    gate = Gate()
    serving = await gate.start()
    allow = [f"{SETTINGS.gateway}:{gate.port}"]
    farm = Farm(places, settings, guest=guest, jobs=jobs, network_allow=allow, cpu_overcommit=cpu_overcommit)
    try:
        await farm.start()
        async with aiohttp.ClientSession() as session:
            one = World(farm, gate, Control(session, farm.state()))
            await one.connected()
            yield one
    finally:
        await farm.stop()
        await serving.cleanup()
        await asyncio.to_thread(machines.destroy, places.agent_data)
        for part in ("forge", "coordinator", "agent"):
            print(f"--- {part}", places.log(part).read_text() if places.log(part).exists() else "", sep="\n")
