"""Real machines of images that the coordinator's catalogue names and that are fetched over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from hostler.images import Compression, ImageFormat, ImageState
from providers.contract import InstanceSpec, Machine
from providers.images import qemu_img
from providers.images.store import ImageStore, Room
from providers.images.values import ImageSource
from providers.libvirt import LibvirtProvider
from tests.demo.farm import REPOSITORY
from tests.demo.places import TEST_GUEST
from tests.providers.adapter import ignore
from tests.real.boot_sectors import CONSOLE_TEXT, boot_sector
from tests.real.conftest import Opener, spec
from tests.real.test_way_of_a_job import world as world
from tests.real.world import World
from tests.samples.image_server import ImageServer, serving

pytestmark = pytest.mark.real

PATIENCE_SECONDS = 30.0


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with serving() as habits:
        yield habits


@asynccontextmanager
async def opened(folder: Path, quota_bytes: int = 1 << 30) -> AsyncIterator[ImageStore]:
    store = ImageStore(folder / "catalogue", Room(quota_bytes, 1 << 30), qemu_img.make_base)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def create(provider: LibvirtProvider, store: ImageStore, source: ImageSource) -> tuple[InstanceSpec, Machine]:
    """As the agent does: the image is held until the machine holds it itself."""
    async with store.lease(source, lambda: None) as base:
        wanted = msgspec.structs.replace(spec("of the catalogue"), source=source, base=base)
        return wanted, await provider.create(wanted, ignore)


async def until_it_says_hello(provider: LibvirtProvider, instance_id: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while CONSOLE_TEXT not in (await provider.console(instance_id, 1000))[0]:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("compression", list(Compression))
async def test_a_machine_boots_what_was_fetched_and_unpacked(
    compression: Compression, open_provider: Opener, server: ImageServer, tmp_path: Path
) -> None:
    source = server.offer(boot_sector("halts"), compression)
    provider = await open_provider()
    async with opened(tmp_path) as store:
        wanted, _ = await create(provider, store, source)
        await until_it_says_hello(provider, wanted.instance_id)
        await provider.delete(wanted.instance_id)


async def test_machines_share_one_base_and_keep_it_whatever_becomes_of_the_store(
    open_provider: Opener, server: ImageServer, tmp_path: Path
) -> None:
    source = server.offer(boot_sector("halts"))
    provider = await open_provider()
    async with opened(tmp_path) as store:
        made = await asyncio.gather(*(create(provider, store, source) for _ in range(3)))
        await asyncio.gather(*(until_it_says_hello(provider, wanted.instance_id) for wanted, _ in made))
        base = tmp_path / "catalogue" / f"{source.sha256}.base"
        assert base.stat().st_nlink == 4
    assert len(server.asked) == 1
    async with opened(tmp_path, quota_bytes=1) as store:  # an agent that starts anew, with no room at all
        assert {one.sha256: one.state for one in store.statuses()} == {source.sha256: ImageState.HAVE}
        for wanted, _ in made[:2]:
            await provider.delete(wanted.instance_id)
    async with opened(tmp_path, quota_bytes=1) as store:
        assert store.statuses(), "one machine still uses it"
        await provider.delete(made[2][0].instance_id)
        assert base.stat().st_nlink == 1
    async with opened(tmp_path, quota_bytes=1) as store:
        assert not store.statuses()
        assert not base.exists()


async def test_a_base_that_was_cut_short_is_not_booted(
    open_provider: Opener, server: ImageServer, tmp_path: Path
) -> None:
    source = server.offer(boot_sector("halts"))
    provider = await open_provider()
    async with opened(tmp_path) as store:
        async with store.lease(source, lambda: None) as base:
            base.path.chmod(0o644)
            with base.path.open("r+b") as file:
                file.truncate(1000)
        wanted, _ = await create(provider, store, source)
        await until_it_says_hello(provider, wanted.instance_id)
        await provider.delete(wanted.instance_id)
    assert len(server.asked) == 2


async def test_a_job_runs_in_a_machine_whose_image_nobody_put_on_its_host(world: World, server: ImageServer) -> None:
    image = await asyncio.to_thread(TEST_GUEST.path.read_bytes)
    source = server.offer(image, Compression.ZSTD, ImageFormat.QCOW2, path="/runner.qcow2.zst")
    document = world.farm.places.folder / "image.toml"
    document.write_text(
        f'[[pool]]\nname = "fetched"\nendpoint = "forge"\nrepository = "{REPOSITORY}"\nprovider = "libvirt"\n'
        'image = "of-the-catalogue"\nflavor = "small"\nlabels = ["fetched"]\n'
        f"network_allow = {world.farm.network_allow}\n"  # the forge is on this host, and so closed to machines
    )
    added = await world.hostler("image", "add", "of-the-catalogue", "--url", source.url, "--sha256", source.sha256)
    assert "image of-the-catalogue/amd64: created" in added
    await world.hostler("apply", str(document))
    first = await world.queue("echo from a fetched image", labels=("fetched",))
    assert "from a fetched image" in await world.succeeded(first)
    steps = await world.steps(first)
    fetch = ["accepted", "fetching image", "image", "disk", "started"]
    assert [step for step in steps if step in fetch] == fetch
    second = await world.queue("echo once more", labels=("fetched",))
    assert "once more" in await world.succeeded(second)
    assert "fetching image" not in await world.steps(second)
    assert "demo-host  amd64  have" in await world.hostler("image", "show", "of-the-catalogue")
    assert len(server.asked) == 1
