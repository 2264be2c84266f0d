"""Images of the catalogue, fetched over HTTP and put into a real LXD's store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from hostler.images import Compression, ImageFormat, ImageState
from providers.contract import ImageUnavailable, InstanceSpec, MachineState
from providers.images import qemu_img
from providers.images.store import ImageStore, Room
from providers.images.values import ImageSource
from providers.lxd import LxdProvider, api, catalogue
from providers.lxd.request import CONTAINERS, VIRTUAL_MACHINES
from tests.providers.adapter import ignore
from tests.real.boot_sectors import boot_sector
from tests.real.conftest import spec
from tests.real.lxd import STAYS, Daemon, container_tarball
from tests.samples.image_server import serving

pytestmark = pytest.mark.real


@pytest.fixture
async def provider(lxd_daemon: Daemon, tmp_path: Path) -> AsyncIterator[LxdProvider]:
    one = LxdProvider(lxd_daemon.settings, tmp_path / "lxd")
    await one.open(lambda _: None)
    try:
        yield one
    finally:
        for machine in await one.inventory():
            await one.delete(machine.instance_id)
        await one.close()


@asynccontextmanager
async def opened(folder: Path, quota_bytes: int = 1 << 30) -> AsyncIterator[ImageStore]:
    store = ImageStore(folder / "catalogue", Room(quota_bytes, 1 << 30), qemu_img.make_base)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def create(provider: LxdProvider, store: ImageStore, source: ImageSource, driver: str) -> InstanceSpec:
    async with store.lease(source, lambda: None) as base:
        wanted = msgspec.structs.replace(spec("of the catalogue"), source=source, base=base, driver=driver)
        assert (await provider.create(wanted, ignore)).state is MachineState.RUNNING
        return wanted


async def test_containers_share_a_fetched_tarball_that_goes_when_nobody_uses_it(
    provider: LxdProvider, lxd_daemon: Daemon, tmp_path: Path
) -> None:
    assert all(driver.fetches for driver in provider.drivers)
    with serving() as server:
        first = server.offer(container_tarball("first", {"sbin/init": STAYS}), image_format=ImageFormat.LXD, path="/1")
        other = server.offer(container_tarball("other", {"sbin/init": STAYS}), image_format=ImageFormat.LXD, path="/2")
        async with opened(tmp_path) as store:
            made = await asyncio.gather(*(create(provider, store, first, CONTAINERS) for _ in range(3)))
            assert [path for path, _ in server.asked] == ["/1"]
            assert first.sha256 in lxd_daemon.aliases()  # LXD's fingerprint is the catalogue's digest
            base = tmp_path / "catalogue" / f"{first.sha256}.base"
            assert base.stat().st_nlink == 4
            size = base.stat().st_blocks * 512
        async with opened(tmp_path, size + size // 2) as store:  # no room for two
            with pytest.raises(Exception, match="do not fit beside the images in use"):
                await create(provider, store, other, CONTAINERS)
            for wanted in made:
                await provider.delete(wanted.instance_id)
            assert base.stat().st_nlink == 1
            last = await create(provider, store, other, CONTAINERS)
            assert {one.sha256: one.state for one in store.statuses()} == {other.sha256: ImageState.HAVE}
        await provider.inventory()
        assert first.sha256 not in lxd_daemon.aliases()
        assert other.sha256 in lxd_daemon.aliases()
        await provider.delete(last.instance_id)
        assert list((tmp_path / "lxd").iterdir()) == []


async def test_a_disk_of_the_catalogue_becomes_an_image_of_virtual_machines(
    provider: LxdProvider, lxd_daemon: Daemon, tmp_path: Path
) -> None:
    """Whether a machine of it boots is shown where there is KVM; a container is refused here."""
    with serving() as server:
        source = server.offer(boot_sector("halts"), Compression.XZ)
        async with opened(tmp_path) as store, store.lease(source, lambda: None) as base:
            wanted = msgspec.structs.replace(spec("disk"), source=source, base=base, driver=VIRTUAL_MACHINES)
            fingerprint = await provider._hypervisor.call(catalogue.ensure, wanted, source, base)
            (image,) = [one for one in api.images(lxd_daemon.client()) if one.fingerprint == fingerprint]
            assert (image.type, image.architecture) == ("virtual-machine", "x86_64")
            assert await provider._hypervisor.call(catalogue.ensure, wanted, source, base) == fingerprint
            with pytest.raises(ImageUnavailable, match="containers are made of tarballs"):
                await provider.create(msgspec.structs.replace(wanted, driver=CONTAINERS), ignore)
            base.path.unlink()
            await provider.inventory()
            assert fingerprint not in lxd_daemon.aliases()


async def test_what_lxd_does_not_take_is_said(provider: LxdProvider, tmp_path: Path) -> None:
    with serving() as server:
        source = server.offer(b"no tarball" * 1000, image_format=ImageFormat.LXD)
        async with opened(tmp_path) as store:
            with pytest.raises(ImageUnavailable, match="LXD does not take the image"):
                await create(provider, store, source, CONTAINERS)
    assert list((tmp_path / "lxd").iterdir()) == []
