"""A host with real machines is drained to its deadline; another is lost with what it makes, and comes back."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import libvirt
import msgspec
import pytest

from providers.isolation import Firewall
from providers.libvirt.settings import LibvirtSettings
from tests.real import machines
from tests.real.conftest import SETTINGS, URI
from tests.real.world import World, open_world

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

_HOST: Final = "demo-host"
_OTHER: Final = "other-host"
_OTHERS_NETWORK: Final = LibvirtSettings(acceleration="tcg", network="hostler-other", subnet="10.216.0.0/24")
_PATIENCE_SECONDS: Final = 180.0
_DEADLINE_SECONDS: Final = 12
_LEASES: Final = "\n[planner]\nhost_grace_seconds = 1\nhost_lease_seconds = 60\n"  # the least that is allowed


@pytest.fixture
async def world(libvirt_up: None, test_guest: None, tmp_path: Path) -> AsyncIterator[World]:  # noqa: ARG001
    async with open_world(tmp_path / "farm", jobs=2) as one:
        yield one


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not await holds():
            await asyncio.sleep(0.2)


async def host(world: World, name: str = _HOST) -> dict[str, Any]:
    told = msgspec.json.decode(await world.hostler("host", "show", name, "--json"), type=dict[str, Any])
    return dict(told["host"])


async def test_a_drain_leaves_the_busy_machine_alone_until_its_deadline_and_then_nothing_of_it(world: World) -> None:
    job = await world.queue_waiting("never")
    busy = world.emulators()
    assert len(busy) == 1
    began = asyncio.get_running_loop().time()

    await world.hostler("host", "drain", _HOST, "--deadline", f"{_DEADLINE_SECONDS}s", "--reason", "new disks")
    later = await world.queue("echo made after the drain")
    await asyncio.sleep(_DEADLINE_SECONDS / 2)
    assert world.emulators() == busy
    assert (await host(world))["admission"] == "draining"

    await world.gone()
    assert asyncio.get_running_loop().time() - began >= _DEADLINE_SECONDS

    async def drained() -> bool:
        return bool((await host(world))["admission"] == "drained")

    await until(drained)
    assert len(world.created()) == 1
    await world.forge.cancel(job)  # as the forge gives up a job whose runner is gone
    await world.hostler("host", "uncordon", _HOST)
    assert "made after the drain" in await world.succeeded(later)
    world.gate.open("never")  # whoever serves it waits for its end


async def test_what_a_lost_host_was_making_is_made_elsewhere_and_when_it_is_back_only_what_is_busy_is_kept(
    world: World,
) -> None:
    with world.farm.places.coordinator_config.open("a") as file:
        file.write(_LEASES)
    await world.farm.kill("coordinator")
    await world.farm.start_coordinator()
    await world.connected()
    working = await world.queue_waiting("working")
    (busy,) = world.emulators()

    waiting = await world.queue("echo made elsewhere")
    stale = await frozen(world, busy)
    await world.farm.kill("agent")
    with other_host(world) as instances:
        await until_connected(world, _OTHER)
        told = await world.ended(waiting)
        assert told["conclusion"] == "success"
        assert "made elsewhere" in told["log"]

        async def lost() -> bool:
            return bool((await host(world))["presence"] == "lost")

        await until(lost)
        # While nobody looks after the host its machines go on; the coordinator keeps the busy one for it alone.
        assert set(world.emulators()) == {busy, stale}
        (kept,) = [one for one in (await world.status())["instances"] if one["host"] == _HOST]
        assert kept["runner_status"] == "active"

        await world.farm.start_agent()
        await until_connected(world, _HOST)

        async def only_the_busy_one() -> bool:
            return set(world.emulators()) == {busy}

        await until(only_the_busy_one)

        async def nothing_else_is_left() -> bool:
            return [record.instance_id for record in world.records()] == [kept["id"]]

        await until(nothing_else_is_left)
        world.gate.open("working")
        assert "gate says go" in await world.succeeded(working)
        assert len(world.created()) == 3  # two here, one there, and none anew
        assert list(instances.iterdir()) == []
        assert machines.emulators(instances) == {}


async def frozen(world: World, busy: int) -> int:
    """The machine that is being made besides: its process stands still before its guest can report."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not (others := set(world.emulators()) - {busy}):
            await asyncio.sleep(0.01)
        (stale,) = others
        while "started" not in phases(world, stale):
            await asyncio.sleep(0.01)
    os.kill(stale, signal.SIGSTOP)
    return stale


def phases(world: World, emulator: int) -> set[str]:
    command = world.emulators().get(emulator, "")
    return {str(phase) for record in world.records() if record.instance_id in command for phase in record.phases}


async def until_connected(world: World, name: str) -> None:
    async def connected() -> bool:
        return any(one["name"] == name and one["connected"] for one in (await world.status())["hosts"])

    await until(connected)


@contextmanager
def other_host(world: World) -> Iterator[Path]:
    """An agent with a network and machines of its own, on the same computer. Its instances' directory."""
    farm = world.farm
    data = farm.places.folder / "other"
    config = farm.places.folder / "other.toml"
    text = farm.places.agent_config.read_text()
    for ours, others in (
        (str(farm.places.agent_data), str(data)),
        (f'"{_HOST}"', f'"{_OTHER}"'),
        (f'"{SETTINGS.network}"', f'"{_OTHERS_NETWORK.network}"'),
        (SETTINGS.subnet, _OTHERS_NETWORK.subnet),
    ):
        assert ours in text
        text = text.replace(ours, others)
    config.write_text(text)
    agent = start_agent(config, farm.places.log("agent"))
    try:
        yield data / "instances"
    finally:
        agent.terminate()
        agent.wait(30)
        machines.destroy(data)
        remove_network(_OTHERS_NETWORK)


def start_agent(config: Path, log: Path) -> "subprocess.Popen[bytes]":
    command = [str(Path(sys.executable).parent / "hostler-agent"), "--config", str(config)]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def remove_network(settings: LibvirtSettings) -> None:
    conn = libvirt.open(URI)
    for network in conn.listAllNetworks():
        if network.name() == settings.network:
            network.destroy()
    conn.close()
    Firewall(settings.isolated).remove()
