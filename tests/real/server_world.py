"""Forge and coordinator on this machine, for a build server that is a virtual machine: its agent dials out to them."""

import asyncio
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from providers.libvirt.settings import LibvirtSettings
from tests.demo import configs
from tests.demo.farm import REPOSITORY, Farm, free_port
from tests.demo.forge import Control
from tests.demo.places import TEST_GUEST, Guest, Places
from tests.real.conftest import ROOT
from tests.real.server_image import VENV, build_wheels, server_image
from tests.real.server_qemu import newest_qemu
from tests.real.server_vm import BuildServer
from tests.real.world import Gate, World

HOST: Final = "build-server"
AGENT: Final = "hostler-agent"
LXD_LABELS: Final = ("self-hosted", "lxd")
LXD_GUEST: Final = Guest(TEST_GUEST.image, TEST_GUEST.path, driver="lxd")
LEASE_SECONDS: Final = 60  # the least that is allowed
PATIENCE_SECONDS: Final = 300.0
# One address of this machine, here and in the server alike: QEMU's network leads there without a door in the server.
_MEETING_POINT: Final = LibvirtSettings(subnet="10.222.0.0/24")
_FILES: Final = "/mnt"  # in the server: what came with it
_IMAGES: Final = "/var/lib/hostler-agent/images"

_AGENT_TOML: Final = f"""\
[host]
name = "{HOST}"

[capacity]
cpu_overcommit = 8.0
reserved_memory_mib = 256
reserved_disk_gib = 0
low_disk_gib = 0
low_memory_mib = 0

[images]
quota_gib = 1

[libvirt]
acceleration = "auto"

[lxd]

[[image]]
name = "{TEST_GUEST.image}"
path = "{_IMAGES}/test-guest.qcow2"
"""
_LXD_METADATA: Final = "architecture: x86_64\ncreation_date: 1\nproperties: {description: test-guest}\n"


class ServerFarm(Farm):
    """Hosts enrol here, and one pool is of LXD's virtual machines."""

    def __init__(self, places: Places, gate: Gate) -> None:
        super().__init__(places, _MEETING_POINT, network_allow=[f"{_MEETING_POINT.gateway}:{gate.port}"])
        self._doors = f"""\
agents_bind = "{self.address}:{free_port(self.address)}"
clients_bind = "{self.address}:{free_port(self.address)}"
public_names = ["{self.address}"]

[planner]
host_lease_seconds = {LEASE_SECONDS}
"""

    async def start_agent(self) -> None:
        """It is the server's own."""

    def _write_configs(self) -> None:
        super()._write_configs()
        with self.places.coordinator_config.open("r+") as file:
            text = file.read()
            file.seek(0)
            file.write(text.replace("[database]", f"{self._doors}\n[database]"))
        with self.places.fleet.open("a") as file:
            file.write(
                configs.pool_toml(self, REPOSITORY, "lxd", LXD_LABELS, "internet", self.network_allow, LXD_GUEST)
            )


class ServerWorld(World, frozen=True, kw_only=True):
    server: BuildServer
    patience_seconds: float = PATIENCE_SECONDS

    async def install(self) -> None:
        """As a newcomer would, by packaging/README.md, on a server that has libvirt and LXD."""
        await self.server.run(f"""
            set -e
            mount -o ro /dev/vdb {_FILES}
            /{VENV}/bin/python -m pip install --quiet --no-index --no-deps {_FILES}/*.whl
            mkdir -p /etc/hostler {_IMAGES}
            cp {_FILES}/*.service /etc/systemd/system/
            cp {_FILES}/*.toml /etc/hostler/
            cp {_FILES}/test-guest.qcow2 {_IMAGES}/
            lxd waitready --timeout 120
            lxc storage create default dir
            lxc image import {_FILES}/test-guest.tar --alias {LXD_GUEST.image}
        """)

    async def enrol(self) -> str:
        """By the line that the coordinator prints."""
        line = (await self.hostler("host", "invite", HOST)).splitlines()[-1]
        assert line.startswith("hostler-agent enrol ")
        return await self.server.run(f"/{VENV}/bin/{line}")

    async def start_service(self) -> None:
        await self.server.run(f"systemctl daemon-reload && systemctl enable --quiet --now {AGENT}")
        await self.presence("connected")

    async def load_bridge_filter(self) -> None:
        """As it says itself, and packaging/README.md before."""
        await self.server.run("echo br_netfilter >/etc/modules-load.d/hostler.conf && modprobe br_netfilter")

    async def drivers(self, *names: str) -> dict[str, Any]:
        """By name; returns when the server offers these."""
        async with asyncio.timeout(self.patience_seconds):
            while True:
                offered = {driver["name"]: driver for driver in (await self.host()).get("drivers", [])}
                if offered.keys() >= set(names):
                    return offered
                await asyncio.sleep(0.2)

    async def missing(self, driver: str) -> str:
        """Why the server does not offer it, once it says so."""
        async with asyncio.timeout(self.patience_seconds):
            while True:
                for out in (await self.host()).get("drivers_out", []):
                    if out["name"] == driver:
                        return str(out["detail"])
                await asyncio.sleep(0.2)

    async def host(self) -> dict[str, Any]:
        return next((one for one in (await self.status())["hosts"] if one["name"] == HOST), {})

    async def gone(self) -> None:
        """No machine is left, neither in the books nor in the server."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await self.status())["instances"]:
                await asyncio.sleep(0.2)
        assert (await self.machines()) == {}
        left = "find /var/lib/hostler-agent/instances /var/lib/hostler-agent/lxd -mindepth 1"
        assert (await self.server.run(left)) == ""

    async def machines(self) -> dict[int, str]:
        """QEMUs of machines in the server: process id and command line, as ps shows them."""
        said = (await self.server.ends("pgrep --full --list-full 'qemu-system-x86_64 -(name|S|daemonize)'")).said
        return {int(line.split()[0]): line for line in said.splitlines() if "pgrep" not in line}

    async def users(self, processes: Iterable[int]) -> set[int]:
        """Numbers of the users that these run as."""
        said = await self.server.run(f"ps -o uid= -p {','.join(map(str, processes))}")
        return {int(user) for user in said.split()}

    async def kill_service(self, unit: str) -> None:
        """Returns when systemd has started it again."""
        pid = f"systemctl show --property MainPID --value {unit}"
        old = (await self.server.run(pid)).strip()
        assert old != "0"
        await self.server.run(f"kill -9 {old}")
        await self.server.until(f"systemctl is-active --quiet {unit} && test $({pid}) != {old}")

    async def adopted(self) -> set[str]:
        """Machines that the agent found running when it started."""
        said = (await self.server.run(f"journalctl --no-pager -o cat -u {AGENT}")).splitlines()
        told = [msgspec.json.decode(line, type=dict[str, Any]) for line in said if line.startswith("{")]
        return {event["name"] for event in told if event["event"] == "adopted" and event["state"] == "running"}

    async def presence(self, wanted: str) -> None:
        """Returns when the coordinator says so of the server."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await self.host()).get("presence") != wanted:
                await asyncio.sleep(0.2)

    async def known(self) -> dict[str, str]:
        """Machines that the coordinator knows, and what their runners do."""
        return {one["name"]: one["runner_status"] for one in (await self.status())["instances"]}

    async def busy(self, count: int) -> dict[str, str]:
        """What is known when so many runners have a job, and nobody else is there."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while list((known := await self.known()).values()) != ["active"] * count:
                await asyncio.sleep(0.2)
        return known

    async def made_of(self, driver: str) -> str:
        """The name of a machine of that driver; returns when there is one."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for one in (await self.status())["instances"]:
                    if one["provider"] == driver:
                        return str(one["name"])
                await asyncio.sleep(0.1)

    async def ended_well(self, job: int) -> str:
        told = await self.ended(job)
        assert told["conclusion"] == "success", told
        return str(told["log"])


def _pack_files(folder: Path) -> Path:
    """What is brought to the server: the agent as this checkout's wheel, units, configurations, images."""
    content = folder / "files"
    content.mkdir()
    build_wheels(content, "--no-build-isolation", "--no-deps", str(ROOT))
    shutil.copy(ROOT / "packaging" / "systemd" / f"{AGENT}.service", content)
    (content / "agent.toml").write_text(_AGENT_TOML)
    shutil.copy(TEST_GUEST.path, content)
    with tarfile.open(content / "test-guest.tar", "w") as archive:
        entry = tarfile.TarInfo("metadata.yaml")
        entry.size = len(_LXD_METADATA)
        archive.addfile(entry, BytesIO(_LXD_METADATA.encode()))
        archive.add(TEST_GUEST.path, "rootfs.img")
    image = folder / "files.img"
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", content, image, "128M"], check=True, capture_output=True)
    return image


@contextmanager
def _meeting_point() -> Iterator[None]:
    address = shlex.split(f"{_MEETING_POINT.gateway}/32 dev lo")
    subprocess.run(["ip", "address", "replace", *address], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "address", "del", *address], check=True)


@asynccontextmanager
async def open_server_world(folder: Path) -> AsyncIterator[ServerWorld]:
    """Everything but what is done in the server, which is up; the test guest must be built."""
    places = Places(folder / "farm")
    places.folder.mkdir(mode=0o711)
    qemu, image = await asyncio.to_thread(lambda: (newest_qemu(), server_image()))
    server = BuildServer(folder, qemu, image, await asyncio.to_thread(_pack_files, folder))
    with _meeting_point():
        gate = Gate(_MEETING_POINT.gateway, PATIENCE_SECONDS)
        serving = await gate.start()
        farm = ServerFarm(places, gate)
        try:
            await asyncio.gather(server.start(), farm.start())
            async with aiohttp.ClientSession() as session:
                yield ServerWorld(farm, gate, Control(session, farm.state()), server=server)
        finally:
            print("--- server", await server.last_words("journalctl --no-pager -o cat -u 'hostler-agent*'"), sep="\n")
            await server.kill()
            await farm.stop()
            await serving.cleanup()
            for part in ("forge", "coordinator"):
                print(f"--- {part}", places.log(part).read_text() if places.log(part).exists() else "", sep="\n")
