"""A job in an ARM64 machine, from webhook to destroyed. Emulated, so slow: one boot."""

import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from providers.contract import Arch
from tests.demo.places import CACHE, Guest
from tests.real.conftest import ROOT, SETTINGS
from tests.real.world import World, open_world

pytestmark = pytest.mark.real

GUEST: Final = Guest("test-guest", CACHE / "test-guest-arm64.qcow2", arch=Arch.ARM64)
IMAGES: Final = ROOT / "packaging" / "images"


@pytest.fixture(scope="session")
def arm64_guest() -> None:
    """The guest that takes one job, of Debian's packages for ARM64."""
    CACHE.mkdir(parents=True, exist_ok=True)
    files, runner = CACHE / "boot-files-arm64", ROOT / "tests" / "forge_simulator" / "runner.sh"
    subprocess.run([IMAGES / "fetch-boot-files", "arm64", files], check=True, timeout=300)
    how = ["--arch", "arm64", "--boot-files", str(files), "--runner", str(runner)]
    subprocess.run([IMAGES / "build-test-guest", *how, GUEST.path], check=True, timeout=60)


@pytest.fixture
async def world(libvirt_up: None, arm64_guest: None, tmp_path: Path) -> AsyncIterator[World]:  # noqa: ARG001
    emulating = msgspec.structs.replace(SETTINGS, emulate=(Arch.ARM64,))
    async with open_world(tmp_path / "farm", emulating, GUEST) as one:
        yield one


async def test_a_job_runs_in_an_arm64_machine_that_leaves_nothing(world: World) -> None:
    job = await world.queue(f"uname -m && echo gate says $({world.gate.wait('job')})")
    await world.gate.reached("job")
    (command,) = world.emulators().values()
    status, table = await world.status(), await world.hostler("fleet", "status")
    world.gate.open("job")

    log = await world.succeeded(job)

    assert log.splitlines() == ["aarch64", "gate says go"]
    assert command.startswith("/usr/bin/qemu-system-aarch64")
    (host,) = status["hosts"]
    (driver,) = host["drivers"]
    assert (host["arch"], driver["images"]) == ("amd64", [])
    assert driver["emulated"] == [{"arch": "arm64", "images": ["test-guest"]}]
    assert re.search(r"^demo-host .* amd64, arm64 \(emulated\) ", table, re.MULTILINE)
    assert len(world.created()) == 1
