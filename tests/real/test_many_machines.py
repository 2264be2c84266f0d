"""A host full of machines loses its agent, its libvirtd and both at once, and gets them back."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.demo.places import Guest
from tests.real import machines
from tests.real.boot_sectors import CONSOLE_TEXT, boot_sector
from tests.real.conftest import start_libvirt
from tests.real.world import World, open_world

pytestmark = pytest.mark.real

_MACHINES: Final = 30
_PATIENCE_SECONDS: Final = 300.0
_PID_FILE: Final = Path("/run/libvirtd.pid")
_BOOT: Final = re.compile(re.escape(CONSOLE_TEXT) + rb"[0-9A-F]{8}")


class Life(msgspec.Struct, frozen=True):
    """What tells one run of a machine from another run of the same."""

    emulator: int  # its process id
    started: int  # that process, in ticks since the host booted
    boot: bytes  # all that its guest ever said: what it found in its processor's time stamp counter


@pytest.fixture
async def world(libvirt_up: None, tmp_path: Path) -> AsyncIterator[World]:  # noqa: ARG001
    image = tmp_path / "tells-its-boot.img"
    image.write_bytes(boot_sector("tells-its-boot"))
    guest = Guest("tells-its-boot", image, memory_mib=64)
    try:
        async with open_world(tmp_path / "farm", guest=guest, jobs=_MACHINES, cpu_overcommit=32.0) as one:
            yield one
    finally:
        await asyncio.to_thread(start_libvirt)  # whatever became of the test: others need it


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.2)


def lives(world: World) -> dict[str, Life]:
    """By instance."""
    return {
        folder.name: Life(pid, _started(pid), (folder / "console.log").read_bytes())
        for pid, command in world.emulators().items()
        for folder in world.instances.iterdir()
        if folder.name in command
    }


def _started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def all_booted(world: World) -> bool:
    consoles = [path.read_bytes() for path in world.instances.glob("*/console.log")]
    return len(consoles) == _MACHINES and all(map(_BOOT.fullmatch, consoles))


async def all_running(world: World) -> set[str]:
    """The instances, once the coordinator takes all of them for running."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            told = (await world.status())["instances"]
            if len(told) == _MACHINES and {one["status"] for one in told} == {"running"}:
                return {one["id"] for one in told}
            await asyncio.sleep(0.5)


def said(world: World, event: str) -> int:
    return sum(1 for line in world.agent_said() if line["event"] == event)


async def lose_the_agent(world: World) -> None:
    adopted = said(world, "adopted")
    await world.farm.kill("agent")
    await world.farm.start_agent()
    await until(lambda: said(world, "adopted") == adopted + _MACHINES)
    await world.connected()


async def lose_libvirtd(world: World) -> None:
    lost, back = said(world, "libvirt_lost"), said(world, "libvirt_back")
    await kill_libvirtd()
    await until(lambda: said(world, "libvirt_lost") == lost + 1)
    assert len(world.emulators()) == _MACHINES
    await asyncio.to_thread(start_libvirt)
    await until(lambda: said(world, "libvirt_back") == back + 1)


async def lose_both(world: World) -> None:
    adopted = said(world, "adopted")
    await world.farm.kill("agent")
    await kill_libvirtd()
    await asyncio.to_thread(start_libvirt)
    await world.farm.start_agent()
    await until(lambda: said(world, "adopted") == adopted + _MACHINES)
    await world.connected()


async def kill_libvirtd() -> None:
    pid = _libvirtd()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{pid}").exists())


def _libvirtd() -> int:
    pid = int(_PID_FILE.read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "libvirtd\n"
    return pid


@pytest.mark.timeout(900)
async def test_thirty_machines_outlive_their_agent_and_libvirtd_and_are_destroyed_by_those_who_come_after(
    world: World,
) -> None:
    jobs = [await world.queue("true") for _ in range(_MACHINES)]
    instances = await all_running(world)
    await until(lambda: all_booted(world))
    before = lives(world)
    assert set(before) == instances
    assert len({life.boot for life in before.values()}) == _MACHINES

    losses: list[Callable[[World], Awaitable[None]]] = [lose_the_agent, lose_libvirtd, lose_both]
    for lose in losses:
        await lose(world)
        assert await all_running(world) == instances, lose.__name__
        assert lives(world) == before, lose.__name__
        assert len(machines.domains()) == _MACHINES

    assert sorted(world.created()) == sorted(instances)  # each was made once
    for job in jobs:
        await world.forge.cancel(job)
    await world.hostler("host", "drain", "demo-host")
    await world.gone()
