"""Jobs in real machines of a real farm: coordinator, agent and forge are processes, and some of them are killed."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.real import machines
from tests.real.world import PATIENCE_SECONDS, World, open_world

pytestmark = pytest.mark.real


@pytest.fixture
async def world(libvirt_up: None, test_guest: None, tmp_path: Path) -> AsyncIterator[World]:  # noqa: ARG001
    async with open_world(tmp_path / "farm") as one:
        yield one


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
    assert host["used"] == {"vcpus": 1, "memory_mib": 256, "disk_gib": 1, "devices": []}
    (driver,) = host["drivers"]
    assert (driver["name"], driver["acceleration"], driver["images"]) == ("libvirt", "tcg", ["test-guest"])
    (instance,) = status["instances"]
    assert (instance["id"], instance["name"], instance["host"]) == (record.instance_id, record.name, "demo-host")
    assert (instance["status"], instance["runner_status"]) == ("running", "active")
    jobs = msgspec.json.decode(await world.hostler("job", "list", "--json"), type=dict[str, Any])["jobs"]
    assert [(one["id"], one["forge_job_id"], one["status"]) for one in jobs] == [
        (instance["job_id"], job, "in_progress")
    ]
    assert re.search(rf"^demo-host +yes +yes +amd64 +1 +1/{host['capacity']['vcpus']} +0\.2/", table, re.MULTILINE)
    assert re.search(rf"^{record.name} +running +active +demo-host ", table, re.MULTILINE)

    world.gate.open("job")
    await world.succeeded(job)
    assert (await world.status())["hosts"][0]["used"] == {"vcpus": 0, "memory_mib": 0, "disk_gib": 0, "devices": []}


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
