"""The libvirt provider against a real libvirt and real QEMU processes."""

import asyncio
import subprocess
from pathlib import Path

import libvirt
import msgspec
import pytest
from aiohttp import web

from providers.contract import (
    Arch,
    ImageUnavailable,
    InstanceSpec,
    Machine,
    MachineState,
    Phase,
    ProviderError,
)
from providers.isolation.rules import port_prefix
from providers.libvirt import ImageFile, LibvirtProvider
from providers.libvirt.store import Record, Store
from tests.demo.traces import rules
from tests.providers.adapter import Ends, ignore
from tests.providers.with_libvirt import processes_with
from tests.real.boot_sectors import CONSOLE_TEXT
from tests.real.conftest import ROOT, SETTINGS, Opener, spec

pytestmark = pytest.mark.real

MADE = [Phase.ACCEPTED, Phase.DISK, Phase.STARTED]


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def libvirt_logs(name: str) -> list[Path]:
    return list(Path("/var/log/libvirt/qemu").glob(f"{name}*"))


def taps() -> set[str]:
    return {
        path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(port_prefix(SETTINGS.isolated))
    }


def directory_of(tmp_path: Path, wanted: InstanceSpec) -> Path:
    return tmp_path / "instances" / wanted.instance_id


async def state_of(provider: LibvirtProvider, instance_id: str) -> Machine:
    return next(machine for machine in await provider.inventory() if machine.instance_id == instance_id)


async def test_a_machine_is_made_in_three_phases_that_survive(
    open_provider: Opener, conn: libvirt.virConnect, tmp_path: Path
) -> None:
    provider = await open_provider()
    wanted = spec()
    phases: list[Phase] = []
    machine = await provider.create(wanted, phases.append)
    assert phases == MADE
    assert (machine.state, list(machine.phases)) == (MachineState.RUNNING, MADE)
    assert await provider.inventory() == [machine]
    assert conn.lookupByName(wanted.name).UUIDString() == wanted.instance_id
    assert not conn.lookupByName(wanted.name).isPersistent()
    for name in ("disk.qcow2", "seed.iso"):
        assert (directory_of(tmp_path, wanted) / name).stat().st_mode & 0o077 == 0
    assert wanted.bootstrap.token.encode() not in (directory_of(tmp_path, wanted) / "state.json").read_bytes()


async def test_four_machines_are_made_at_once(open_provider: Opener, tmp_path: Path) -> None:
    provider = await open_provider()
    wanted = [spec() for _ in range(4)]
    made = await asyncio.gather(*(provider.create(one, ignore) for one in wanted))
    assert {machine.instance_id for machine in made} == {one.instance_id for one in wanted}
    assert {machine.state for machine in await provider.inventory()} == {MachineState.RUNNING}
    assert len({record.address for record in Store(tmp_path / "instances").records()}) == 4


async def test_a_delete_leaves_nothing(open_provider: Opener, conn: libvirt.virConnect, tmp_path: Path) -> None:
    provider = await open_provider()
    before = (taps(), rules(), conn.listDomainsID())
    wanted = spec()
    await provider.create(wanted, ignore)
    assert processes_with(wanted.instance_id)
    assert taps() != before[0]
    assert libvirt_logs(wanted.name)
    await provider.delete(wanted.instance_id)
    assert processes_with(wanted.instance_id) == []
    assert (taps(), rules(), conn.listDomainsID()) == before
    assert list((tmp_path / "instances").iterdir()) == []
    assert libvirt_logs(wanted.name) == []
    assert await provider.inventory() == []
    await provider.delete(wanted.instance_id)


async def test_a_half_made_machine_is_shown_and_made_anew(open_provider: Opener, tmp_path: Path) -> None:
    provider = await open_provider()
    wanted = spec()
    Store(tmp_path / "instances").begin(wanted, SETTINGS.addresses)
    (directory_of(tmp_path, wanted) / "disk.qcow2").write_bytes(b"cut off in the mid")
    assert (await state_of(provider, wanted.instance_id)).state is MachineState.CREATING
    assert (await provider.create(wanted, ignore)).state is MachineState.RUNNING


async def test_a_domain_whose_directory_is_lost_is_shown_and_can_be_deleted(
    open_provider: Opener, tmp_path: Path
) -> None:
    provider = await open_provider()
    wanted = spec()
    await provider.create(wanted, ignore)
    directory_of(tmp_path, wanted).rename(tmp_path / "lost")
    lost = await state_of(provider, wanted.instance_id)
    assert (lost.generation, lost.name, lost.state) == (wanted.generation, wanted.name, MachineState.RUNNING)
    await provider.delete(wanted.instance_id)
    assert await provider.inventory() == []
    assert processes_with(wanted.instance_id) == []


async def test_another_agents_machines_are_not_ours(open_provider: Opener, tmp_path: Path) -> None:
    ours = await open_provider()
    theirs = await open_provider(directory=tmp_path / "theirs")
    await theirs.create(spec(), ignore)
    assert await ours.inventory() == []


@pytest.mark.parametrize("image", ["powers-off", "resets"])
async def test_a_machine_that_ends_by_itself_is_told_and_never_used_again(open_provider: Opener, image: str) -> None:
    ends = Ends()
    provider = await open_provider(ends)
    wanted = spec(image)
    phases: list[Phase] = []
    await provider.create(wanted, phases.append)
    assert await ends.next() == wanted.instance_id
    assert phases == MADE
    spent = await state_of(provider, wanted.instance_id)
    assert (spent.state, list(spent.phases)) == (MachineState.STOPPED, [*MADE, Phase.STOPPED])
    assert await provider.console(wanted.instance_id, 1000) == (CONSOLE_TEXT, False)
    assert await provider.console(wanted.instance_id, 7) == (CONSOLE_TEXT[-7:], True)
    assert await provider.create(wanted, ignore) == spent
    assert ends.told.empty()


async def test_a_machine_started_just_before_a_crash_is_adopted_as_started(
    open_provider: Opener, tmp_path: Path
) -> None:
    before = await open_provider()
    wanted = spec()
    await before.create(wanted, ignore)
    await before.close()
    state = directory_of(tmp_path, wanted) / "state.json"
    record = msgspec.json.decode(state.read_bytes(), type=Record)
    state.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(record, phases={Phase.ACCEPTED: record.phases[Phase.ACCEPTED]}))
    )
    after = await open_provider()
    assert Phase.STARTED in (await state_of(after, wanted.instance_id)).phases


async def test_an_image_that_cannot_be_had_is_said(open_provider: Opener, tmp_path: Path) -> None:
    (tmp_path / "garbage.img").write_bytes(b"QFI\xfb garbage")
    output(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        str(tmp_path / "halts.img"),
        "-F",
        "raw",
        str(tmp_path / "overlay"),
    )
    extra = [ImageFile(name, str(tmp_path / name)) for name in ("gone.img", "garbage.img", "overlay")]
    provider = await open_provider(extra=tuple(extra))
    assert "gone.img" not in provider.drivers[0].images
    for image, said in [
        ("unknown", "not configured"),
        ("gone.img", "No such file"),
        ("garbage.img", "cannot be read"),
        ("overlay", "is qcow2 on"),
    ]:
        with pytest.raises(ImageUnavailable, match=said):
            await provider.create(spec(image), ignore)
    with pytest.raises(ImageUnavailable, match="for arm64 is not configured"):
        await provider.create(msgspec.structs.replace(spec(), arch=Arch.ARM64), ignore)
    assert list((tmp_path / "instances").iterdir()) == []


async def test_a_name_that_is_taken_or_wrong_is_said_and_nothing_is_left(open_provider: Opener, tmp_path: Path) -> None:
    provider = await open_provider()
    wanted = spec()
    await provider.create(wanted, ignore)
    with pytest.raises(ProviderError, match="already exists"):
        await provider.create(msgspec.structs.replace(spec(), name=wanted.name), ignore)
    with pytest.raises(ProviderError, match="no host name"):
        await provider.create(msgspec.structs.replace(spec(), name="a/../b"), ignore)
    with pytest.raises(ProviderError, match="not a UUID"):
        await provider.create(msgspec.structs.replace(spec(), instance_id="../x"), ignore)
    assert [path.name for path in (tmp_path / "instances").iterdir()] == [wanted.instance_id]


async def test_a_directory_that_cannot_be_written_is_said_at_open(images: list[ImageFile]) -> None:
    provider = LibvirtProvider(SETTINGS, images, Path("/proc/instances"))
    with pytest.raises(ProviderError, match="/proc/instances"):
        await provider.open(lambda _: None)


async def test_a_guest_reads_its_seed_and_reaches_its_host(open_provider: Opener, tmp_path: Path) -> None:
    """The whole way of a test guest: it calls back with its token, is refused, says so and powers off."""
    image = tmp_path / "guest.qcow2"
    output(str(ROOT / "packaging" / "images" / "build-test-guest"), str(image))
    ends = Ends()
    provider = await open_provider(ends, extra=(ImageFile("guest", str(image)),))
    calls: list[tuple[str, str | None, str | None]] = []

    async def refuse(request: web.Request) -> web.Response:
        calls.append((request.path, request.headers.get("Authorization"), request.remote))
        return web.Response(status=401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, str(SETTINGS.gateway), 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        wanted = spec("guest", url=f"http://{SETTINGS.gateway}:{port}", memory_mib=256)
        await provider.create(wanted, ignore)
        assert await ends.next(120) == wanted.instance_id
    finally:
        await runner.cleanup()
    address = Store(tmp_path / "instances").records()[0].address
    assert calls[0] == ("/callbacks/status", f"Bearer {wanted.bootstrap.token}", address)
    console, _ = await provider.console(wanted.instance_id, 1 << 20)
    assert b"hostler-guest: " in console
    assert wanted.bootstrap.token.encode() not in console
