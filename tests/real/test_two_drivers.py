"""One agent with libvirt and LXD: a job in a machine of each, and LXD away meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest

from providers.isolation import Firewall
from tests.demo.farm import REPOSITORY, Farm
from tests.demo.forge import Control
from tests.demo.places import Places
from tests.demo.run import bring_up_network
from tests.real import machines
from tests.real.conftest import SETTINGS
from tests.real.lxd import Daemon
from tests.real.test_lxd_job import import_guest
from tests.real.world import PATIENCE_SECONDS, Gate, World

pytestmark = pytest.mark.real

CONTAINER: Final = ("self-hosted", "container")


@pytest.fixture
async def world(libvirt_up: None, test_guest: None, lxd_daemon: Daemon, tmp_path: Path) -> AsyncIterator[World]:  # noqa: ARG001
    if "test-guest" not in lxd_daemon.aliases():
        import_guest(lxd_daemon)
    await asyncio.to_thread(bring_up_network, SETTINGS)
    places = Places(tmp_path / "farm")
    places.folder.mkdir(mode=0o711)
    gate = Gate()
    serving = await gate.start()
    allow = [f"{SETTINGS.gateway}:{gate.port}"]
    farm = Farm(places, SETTINGS, network_allow=allow, beside=lxd_daemon.settings)
    try:
        await farm.start()
        async with aiohttp.ClientSession() as session:
            one = World(farm, gate, Control(session, farm.state()))
            await one.connected()
            file = places.folder / "containers.toml"
            file.write_text(containers(farm))
            await one.hostler("apply", str(file))
            yield one
    finally:
        await farm.stop()
        await serving.cleanup()
        await asyncio.to_thread(machines.destroy, places.agent_data)
        for name in lxd_daemon.instances():
            lxd_daemon.lxc("delete", "--force", "--project", "hostler", name)
        Firewall(SETTINGS.isolated).remove()
        for part in ("forge", "coordinator", "agent"):
            print(f"--- {part}", places.log(part).read_text() if places.log(part).exists() else "", sep="\n")


def containers(farm: Farm) -> str:
    """The pool of LXD's containers: forge and gate are on the host's other bridge."""
    return f"""\
[[pool]]
name = "containers"
endpoint = "forge"
repository = "{REPOSITORY}"
provider = "lxd-container"
image = "test-guest"
flavor = "small"
labels = {list(CONTAINER)}
max_runners = 4
network_policy = "internet"
network_allow = {farm.network_allow}
"""


async def host(world: World) -> dict[str, Any]:
    told = await world.hostler("host", "show", "demo-host", "--json")
    found: dict[str, Any] = msgspec.json.decode(told, type=dict[str, Any])["host"]
    return found


async def until_out(world: World, *names: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await host(world)
            if sorted(one["name"] for one in found.get("drivers_out", [])) == sorted(names):
                return found
            await asyncio.sleep(0.1)


async def test_a_job_runs_with_each_of_two_drivers_and_one_that_is_away_stops_the_other_not(
    world: World, lxd_daemon: Daemon
) -> None:
    offered = {driver["name"] for driver in (await until_out(world))["drivers"]}
    assert {"libvirt", "lxd-container"} <= offered
    contained = await world.queue_waiting("container", labels=CONTAINER)
    booted = await world.queue_waiting("machine")
    (name,) = lxd_daemon.instances()
    assert len(world.records()) == 1

    lxd_daemon.kill()
    out = await until_out(world, "lxd", "lxd-container")
    assert "LXD" in out["drivers_out"][0]["detail"]
    assert {driver["name"] for driver in out["drivers"]} == {"libvirt"}
    status = await world.status()
    assert sorted(one["runner_status"] for one in status["instances"]) == [
        "active",
        "active",
    ]  # it is not taken for gone
    world.gate.open("machine")
    assert "gate says go" in (await world.ended(booted))["log"]
    waiting = await world.queue("echo after", labels=CONTAINER)

    await asyncio.to_thread(lxd_daemon.start)
    await until_out(world)
    assert name in lxd_daemon.instances()
    world.gate.open("container")
    assert "gate says go" in (await world.ended(contained))["log"]
    assert "after" in (await world.ended(waiting))["log"]
    await world.gone()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while lxd_daemon.instances():
            await asyncio.sleep(0.1)
    assert list((world.farm.places.agent_data / "held").iterdir()) == []
