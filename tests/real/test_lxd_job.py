"""Jobs in real LXD containers of a real farm: its parts are processes, and some of them are killed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from providers.lxd import LxdProvider
from providers.lxd.request import CONTAINERS
from tests.demo.farm import Farm
from tests.demo.forge import Control
from tests.demo.places import Guest, Places
from tests.providers.with_libvirt import processes_with
from tests.real.conftest import ROOT
from tests.real.lxd import Daemon
from tests.real.world import PATIENCE_SECONDS, Gate, World

pytestmark = pytest.mark.real

GUEST: Final = Guest("test-guest", Path(), driver=CONTAINERS)
USERS: Final = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nrunner:x:1000:1000::/home/runner:/bin/sh\n",
    "etc/group": "root:x:0:\nrunner:x:1000:\n",
}


class LxdWorld(World, frozen=True, kw_only=True):
    lxd: Daemon

    async def gone(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await self.status())["instances"] or self.lxd.instances():
                await asyncio.sleep(0.1)
        assert self.lxd.volumes() == []
        assert processes_with("[lxc monitor]") == []
        assert self.lxd.ports() == []
        assert list((self.farm.places.agent_data / "lxd").iterdir()) == []

    def containers(self) -> dict[str, list[int]]:
        """Instances and their keepers' processes."""
        return {name: processes_with(f"hostler_{name}") for name in self.lxd.instances()}


@pytest.fixture(scope="module")
def guest_image(lxd_daemon: Daemon) -> None:
    import_guest(lxd_daemon)


def import_guest(lxd_daemon: Daemon) -> None:
    """The test guest as a container."""
    files = {
        "sbin/init": "#!/bin/sh\nexec /init\n",
        "init": (ROOT / "packaging" / "images" / "test-guest" / "init").read_text(),
        "home/runner/actions-runner/run.sh": (ROOT / "tests" / "forge_simulator" / "runner.sh").read_text(),
    }
    lxd_daemon.import_container(GUEST.image, files | USERS)


@pytest.fixture
async def world(lxd_daemon: Daemon, guest_image: None, tmp_path: Path) -> AsyncIterator[LxdWorld]:  # noqa: ARG001
    places = Places(tmp_path / "farm")
    places.folder.mkdir()
    await bring_up_network(lxd_daemon, tmp_path)
    gate = Gate(lxd_daemon.settings.gateway)
    serving = await gate.start()
    farm = Farm(places, lxd_daemon.settings, guest=GUEST, network_allow=[f"{lxd_daemon.settings.gateway}:{gate.port}"])
    try:
        await farm.start()
        async with aiohttp.ClientSession() as session:
            one = LxdWorld(farm, gate, Control(session, farm.state()), lxd=lxd_daemon)
            await one.connected()
            yield one
    finally:
        await farm.stop()
        await serving.cleanup()
        for name in lxd_daemon.instances():
            lxd_daemon.lxc("delete", "--force", "--project", "hostler", name)
        for part in ("forge", "coordinator", "agent"):
            print(f"--- {part}", places.log(part).read_text() if places.log(part).exists() else "", sep="\n")


async def bring_up_network(daemon: Daemon, folder: Path) -> None:
    """Forge and coordinator listen on the bridge, before an agent is there to make it."""
    provider = LxdProvider(daemon.settings, folder / "nobody")
    await provider.open(lambda _: None)
    await provider.close()


async def test_a_job_runs_in_a_container_that_is_gone_afterwards(world: LxdWorld) -> None:
    job = await world.queue('echo "runs on $(uname -n) as $(id -un)"; ls /var/lib/cloud/seed/nocloud || true')
    log = await world.succeeded(job)
    (instance_id,) = world.created()
    assert "as runner" in log
    assert "runs on hostler-" in log
    assert "hostler.env" not in log
    told = await world.hostler("instance", "console", instance_id)
    assert "reported idle" in told
    assert "powering off" in told


async def test_a_container_outlives_its_agent_and_its_job_ends_well(world: LxdWorld) -> None:
    job = await world.queue_waiting("job")
    running = world.containers()
    assert [len(keepers) for keepers in running.values()] == [1]
    await world.farm.kill("agent")
    await world.farm.start_agent()
    await world.connected()
    (instance,) = (await world.status())["instances"]
    assert (instance["status"], instance["runner_status"], instance["host"]) == ("running", "active", "demo-host")
    assert world.containers() == running
    world.gate.open("job")
    assert "gate says go" in await world.succeeded(job)
    assert len(world.created()) == 1


async def test_a_job_that_ends_while_the_agent_is_dead_has_its_container_destroyed_later(world: LxdWorld) -> None:
    job = await world.queue_waiting("job")
    (name,) = world.lxd.instances()
    await world.farm.kill("agent")
    world.gate.open("job")
    await world.ended(job)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while world.lxd.status(name) != "Stopped":
            await asyncio.sleep(0.1)
    await world.farm.start_agent()
    await world.succeeded(job)
    assert len(world.created()) == 1


async def test_a_container_outlives_lxd_and_its_job_ends_well(world: LxdWorld) -> None:
    job = await world.queue_waiting("job")
    running = world.containers()
    world.lxd.kill()
    await asyncio.to_thread(world.lxd.start)
    assert world.containers() == running
    world.gate.open("job")
    assert "gate says go" in await world.succeeded(job)
    assert len(world.created()) == 1
