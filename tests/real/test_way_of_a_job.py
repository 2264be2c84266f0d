"""Jobs in real machines of a real farm: coordinator, agent and forge are processes, and some of them are killed."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest
from aiohttp import web

from providers.libvirt.store import Record
from tests.demo.farm import LABELS, Farm
from tests.demo.forge import Control
from tests.demo.places import Places
from tests.demo.run import bring_up_network
from tests.real import machines
from tests.real.conftest import ROOT, SETTINGS

pytestmark = pytest.mark.real

PATIENCE_SECONDS: Final = 60.0


class Gate:
    """Holds jobs until the test lets them go: each asks for its own page, and is answered when the test says what."""

    def __init__(self, address: IPv4Address = SETTINGS.gateway) -> None:
        self.address = address
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
        await asyncio.wait_for(self._asked.setdefault(name, asyncio.Event()).wait(), PATIENCE_SECONDS)

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

    @property
    def instances(self) -> Path:
        return self.farm.places.agent_data / "instances"

    async def queue(self, script: str, labels: tuple[str, ...] = LABELS) -> int:
        return await self.forge.queue_script(script, labels=labels)

    async def queue_waiting(self, name: str) -> int:
        """A job that waits at the gate; returns when it does."""
        job = await self.queue(f"echo gate says $({self.gate.wait(name)})")
        await self.gate.reached(name)
        return job

    async def ended(self, job: int) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_SECONDS):
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
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await self.status())["instances"] or machines.domains() or list(self.instances.iterdir()):
                await asyncio.sleep(0.1)
        assert self.emulators() == {}
        assert "vnet" not in output("ip", "-oneline", "link")

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
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any(host["connected"] for host in (await self.status())["hosts"]):
                await asyncio.sleep(0.1)

    def records(self) -> list[Record]:
        return [msgspec.json.decode(path.read_bytes(), type=Record) for path in self.instances.glob("*/state.json")]

    def emulators(self) -> dict[int, str]:
        return machines.emulators(self.instances)

    def created(self) -> list[str]:
        """The ids of machines as they were begun, by the agent's own log; begun anew is there twice."""
        lines = self.farm.places.log("agent").read_text().splitlines()
        events = [msgspec.json.decode(line, type=dict[str, Any]) for line in lines if line.startswith("{")]
        return [event["instance"] for event in events if event.get("phase") == "accepted"]


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
async def world(libvirt_up: None, test_guest: None, tmp_path: Path) -> AsyncIterator[World]:  # noqa: ARG001
    places = Places(tmp_path / "farm")
    places.folder.mkdir()
    await asyncio.to_thread(bring_up_network, SETTINGS)
    farm, gate = Farm(places, SETTINGS), Gate()
    serving = await gate.start()
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


async def kill_and_start(world: World, parts: tuple[str, ...]) -> None:
    for part in parts:
        await world.farm.kill(part)
    if "coordinator" in parts:
        await world.farm.start_coordinator()
    if "agent" in parts:
        await world.farm.start_agent()
    await world.connected()


@pytest.mark.parametrize("parts", [("agent",), ("coordinator",), ("coordinator", "agent")], ids="+".join)
async def test_a_machine_outlives_whoever_is_killed_and_its_job_ends_well(world: World, parts: tuple[str, ...]) -> None:
    job = await world.queue_waiting("job")
    running = world.emulators()
    assert len(running) == 1

    await kill_and_start(world, parts)

    (instance,) = (await world.status())["instances"]
    assert (instance["status"], instance["runner_status"]) == ("running", "active")
    assert world.emulators() == running
    world.gate.open("job")
    assert "gate says go" in await world.succeeded(job)
    assert len(world.created()) == 1
    steps = await world.steps(job)
    assert [step for step in ("booted", "job running", "completed", "destroyed") if steps.count(step) != 1] == []


async def test_a_job_that_ends_while_the_agent_is_dead_has_its_machine_destroyed_later(world: World) -> None:
    job = await world.queue_waiting("job")
    await world.farm.kill("agent")
    world.gate.open("job")
    await world.ended(job)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while world.emulators():
            await asyncio.sleep(0.1)
    assert len(world.records()) == 1

    await world.farm.start_agent()

    await world.succeeded(job)
    assert len(world.created()) == 1


SLOW = """#!/bin/sh
# Does as qemu-img, and then does not come back: its caller is stopped in the middle of a create.
QEMU_IMG "$@"
code=$?
if [ "$1" = create ] && [ -e HOLD ]; then touch MADE; while [ -e HOLD ]; do sleep 0.1; done; fi
exit $code
"""


async def test_an_agent_killed_in_the_middle_of_a_create_makes_one_machine_in_the_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, made = tmp_path / "hold", tmp_path / "made"
    held = tmp_path / "bin" / "qemu-img"
    held.parent.mkdir()
    real = str(shutil.which("qemu-img"))
    held.write_text(SLOW.replace("QEMU_IMG", real).replace("HOLD", str(hold)).replace("MADE", str(made)))
    held.chmod(0o755)
    monkeypatch.setenv("PATH", f"{held.parent}:{os.environ['PATH']}")
    await world.farm.kill("agent")
    await world.farm.start_agent()
    await world.connected()
    hold.touch()
    try:
        job = await world.queue("echo served")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not made.exists():
                await asyncio.sleep(0.01)
        await world.farm.kill("agent")
    finally:
        hold.unlink()
    (half,) = world.records()
    assert list(half.phases) == ["accepted"]
    assert (world.instances / half.instance_id / "disk.qcow2").exists()
    assert machines.domains() == []

    await world.farm.start_agent()

    assert "served" in await world.succeeded(job)
    assert world.created() == [half.instance_id, half.instance_id]


async def test_fleet_status_shows_host_capacity_and_machine_while_a_job_runs(world: World) -> None:
    job = await world.queue_waiting("job")
    (record,) = world.records()

    status, table = await world.status(), await world.hostler("fleet", "status")

    (host,) = status["hosts"]
    assert (host["name"], host["connected"], host["arch"]) == ("demo-host", True, "amd64")
    assert host["capacity"]["vcpus"] == 8 * len(os.sched_getaffinity(0))
    assert host["capacity"]["memory_mib"] > 1024
    assert host["used"] == {"vcpus": 1, "memory_mib": 256, "disk_gib": 1}
    (driver,) = host["drivers"]
    assert (driver["name"], driver["acceleration"], driver["images"]) == ("libvirt", "tcg", ["test-guest"])
    (instance,) = status["instances"]
    assert (instance["id"], instance["name"], instance["host"]) == (record.instance_id, record.name, "demo-host")
    assert (instance["status"], instance["runner_status"]) == ("running", "active")
    jobs = msgspec.json.decode(await world.hostler("job", "list", "--json"), type=dict[str, Any])["jobs"]
    assert [(one["id"], one["forge_job_id"], one["status"]) for one in jobs] == [
        (instance["job_id"], job, "in_progress")
    ]
    assert re.search(rf"^demo-host +yes +amd64 +1/{host['capacity']['vcpus']} +0\.2/", table, re.MULTILINE)
    assert re.search(rf"^{record.name} +running +active +demo-host ", table, re.MULTILINE)

    world.gate.open("job")
    await world.succeeded(job)
    assert (await world.status())["hosts"][0]["used"] == {"vcpus": 0, "memory_mib": 0, "disk_gib": 0}


async def test_a_machine_cannot_reach_its_neighbour(world: World) -> None:
    """What the neighbour serves answers its host, so only the wall between the two can be why they do not meet."""
    served = await world.queue(
        f"mkdir www && echo from the neighbour >www/page && busybox httpd -p 8080 -h www && {world.gate.wait('server')}"
    )
    await world.gate.reached("server")
    (server,) = world.records()
    url = f"http://{server.address}:8080/page"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert await answer.text() == "from the neighbour\n"

    tried = await world.queue(f"if timeout 8 wget -q -O - {url}; then echo reached; else echo not reached; fi")
    log = (await world.ended(tried))["log"]

    assert "not reached" in log
    assert "from the neighbour" not in log
    world.gate.open("server")
    await world.succeeded(served)


async def test_no_machine_is_made_for_labels_that_nobody_has(world: World) -> None:
    unmatched = await world.queue("true", labels=("self-hosted", "gpu"))
    matched = await world.queue("echo served")

    assert "served" in await world.succeeded(matched)

    assert len(world.created()) == 1
    listed = msgspec.json.decode(await world.hostler("job", "list", "--json"), type=dict[str, Any])["jobs"]
    assert [(job["forge_job_id"], job["status"]) for job in listed] == [(unmatched, "queued")]
    assert "gpu" in listed[0]["waiting_reason"]
