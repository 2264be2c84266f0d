"""A running libvirt for the tests that need one, and tiny guests that need no operating system."""

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from providers.contract import Arch, Bootstrap, InstanceSpec, Resources
from providers.isolation import Coordinator, Firewall
from providers.libvirt import ImageFile, LibvirtProvider, LibvirtSettings
from tests.demo.places import CACHE, TEST_GUEST
from tests.real.boot_sectors import ENDINGS, boot_sector
from tests.runner_images import WITH_UNIT, runner_image

ROOT = Path(__file__).parents[2]
URI = "qemu:///system"
SETTINGS = LibvirtSettings(acceleration="tcg", network="hostler-test", subnet="10.219.0.0/24")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """LXD's virtual machines take their time: only where they are asked for."""
    asked = config.getoption("--lxd-machines")
    return True if collection_path.name == "test_lxd_machines.py" and not asked else None


def spec(image: str = "halts", *, url: str = "http://10.219.0.1:1", memory_mib: int = 64) -> InstanceSpec:
    """A new instance of its own id and name."""
    instance_id = str(uuid.uuid4())
    return InstanceSpec(
        instance_id=instance_id,
        generation=1,
        name=f"test-{instance_id[:8]}",
        image=image,
        resources=Resources(vcpus=1, memory_mib=memory_mib, disk_gib=1),
        arch=Arch.AMD64,
        pool_id="pool",
        bootstrap=Bootstrap(f"{url}/metadata", f"{url}/callbacks", f"token-of-{instance_id}"),
    )


def start_libvirt() -> None:
    subprocess.run([ROOT / "packaging" / "libvirt-up"], check=True, timeout=120)


@pytest.fixture(scope="session")
def libvirt_up() -> Iterator[None]:
    """libvirt answers; the network that the tests made is gone afterwards, the daemon stays for whoever uses it."""
    start_libvirt()
    yield
    conn = libvirt.open(URI)
    for network in conn.listAllNetworks():
        if network.name() == SETTINGS.network:
            network.destroy()
    conn.close()
    Firewall(SETTINGS.isolated).remove()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Instead of pytest's, through whose folders QEMU's own user does not get."""
    folder = Path(tempfile.mkdtemp(prefix="hostler-real-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def test_guest() -> Path:
    """The guest that takes one job from the forge simulator; where the demo has it too."""
    CACHE.mkdir(parents=True, exist_ok=True)
    runner = ROOT / "tests" / "forge_simulator" / "runner.sh"
    build = ROOT / "packaging" / "images" / "build-test-guest"
    subprocess.run([build, "--runner", runner, TEST_GUEST.path], check=True, timeout=60)
    return TEST_GUEST.path


RUNNER_RELEASE_FILE = "came-with-the-image"


@pytest.fixture(scope="session")
def cloud_init_image() -> Path:
    """The image for real jobs, with cloud-init. It lacks run.sh, so that a machine has to download the runner."""
    release = {RUNNER_RELEASE_FILE: "#!/bin/sh\necho $(basename $0) runs as $(id -un)\n"}
    return runner_image("runner-image-cloud-init", release, "--cloud-init")


@pytest.fixture(scope="session")
def unit_image() -> Path:
    """The image for real jobs, with the unit of our own and the stand-in runner unpacked."""
    return runner_image(*WITH_UNIT)


@pytest.fixture
def conn(libvirt_up: None) -> Iterator[libvirt.virConnect]:  # noqa: ARG001 (pytest's way to order fixtures)
    made = libvirt.open(URI)
    yield made
    made.close()


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    """One image per ending, by its name."""
    for ending in ENDINGS:
        (tmp_path / f"{ending}.img").write_bytes(boot_sector(ending))
    return [ImageFile(ending, str(tmp_path / f"{ending}.img")) for ending in ENDINGS]


Opener = Callable[..., Awaitable[LibvirtProvider]]


@pytest.fixture
async def open_provider(libvirt_up: None, images: list[ImageFile], tmp_path: Path) -> AsyncIterator[Opener]:  # noqa: ARG001
    """Opens providers on one directory; what they hold at the end is destroyed."""
    opened: list[LibvirtProvider] = []

    async def open_one(
        on_stopped: Callable[[str], None] = lambda _: None,
        directory: Path = tmp_path / "instances",
        extra: tuple[ImageFile, ...] = (),
        coordinator: Coordinator | None = None,
    ) -> LibvirtProvider:
        provider = LibvirtProvider(SETTINGS, [*images, *extra], directory, coordinator=coordinator)
        await provider.open(on_stopped)
        opened.append(provider)
        return provider

    yield open_one
    for provider in opened:
        await provider.close()
        await provider.open(lambda _: None)
        for machine in await provider.inventory():
            await provider.delete(machine.instance_id)
        await provider.close()
