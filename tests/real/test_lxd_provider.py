"""What is special to the LXD provider, with real containers. What every provider does is in tests/providers."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from hostler.network import NetworkAccess
from providers.contract import Arch, ImageUnavailable, InstanceSpec, MachineState, ProviderError, Resources
from providers.lxd import LxdProvider, LxdSettings
from providers.lxd.consoles import Consoles
from providers.lxd.request import CONTAINERS, VIRTUAL_MACHINES
from tests.demo.traces import rules
from tests.providers.adapter import Ends, ignore
from tests.providers.with_libvirt import processes_with
from tests.real.conftest import spec
from tests.real.lxd import NETWORK, Daemon

pytestmark = pytest.mark.real

SEED = "/var/lib/cloud/seed/nocloud"
SHOWS_ITS_PLACE = f"""\
#!/bin/sh
. {SEED}/hostler.env
ip address add "$HOSTLER_ADDRESS" dev eth0
ip link set eth0 up
ip route add default via "$HOSTLER_GATEWAY"
mount -t proc proc /proc
# LXD gives a container its processors a moment after its start.
tries=0
until [ "$(nproc)" = 1 ] || [ "$tries" = 100 ]; do tries=$((tries + 1)); sleep 0.1; done
echo "I am $HOSTLER_INSTANCE_NAME with $(nproc) processors"
ls -ln {SEED}
cat {SEED}/user-data
ping -c 1 -W 5 "$HOSTLER_GATEWAY"
echo done
while :; do sleep 1; done
"""
# As Docker does it: a name space of users within the container's, with a /proc of its own.
NESTS = """\
#!/bin/sh
unshare -U -r -m -p -f sh -c 'mount -t proc proc /proc && echo "nested as $(id -u), first is $(cat /proc/1/comm)"'
echo "nesting ended with $?"
while :; do sleep 1; done
"""
# No hand is on the machine: it starts itself again.
REBOOTS = """\
#!/bin/sh
echo booted
sleep 1
reboot -f
"""
TALKS = """\
#!/bin/sh
n=0
while :; do n=$((n + 1)); echo "line $n"; sleep 0.1; done
"""
# What it is told is written by LXD from a template, as in the images that everybody uses.
TEMPLATES = """\
templates:
  /var/lib/cloud/seed/nocloud-net/user-data:
    when: [create]
    template: user-data.tpl
"""

Opener = Callable[..., Awaitable[LxdProvider]]


def container(image: str = "stays", user_data: bytes = b"") -> InstanceSpec:
    wanted = msgspec.structs.replace(spec(image), driver=CONTAINERS)
    return msgspec.structs.replace(wanted, bootstrap=msgspec.structs.replace(wanted.bootstrap, user_data=user_data))


@pytest.fixture
async def open_provider(lxd_daemon: Daemon, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens providers; what they hold at the end is destroyed."""
    opened: list[LxdProvider] = []

    async def open_one(
        on_stopped: Callable[[str], None] = lambda _: None, directory: Path = tmp_path / "instances"
    ) -> LxdProvider:
        provider = LxdProvider(lxd_daemon.settings, directory)
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


@pytest.fixture(scope="module")
def images(lxd_daemon: Daemon) -> None:
    lxd_daemon.import_container("shows-its-place", {"sbin/init": SHOWS_ITS_PLACE})
    lxd_daemon.import_container("nests", {"sbin/init": NESTS})
    lxd_daemon.import_container("reboots", {"sbin/init": REBOOTS})
    lxd_daemon.import_container("talks", {"sbin/init": TALKS})
    lxd_daemon.import_container(
        "has-templates",
        {"sbin/init": "#!/bin/sh\ncat /var/lib/cloud/seed/nocloud-net/user-data\nsleep 1000\n", "var/lib/.keep": ""},
        metadata=TEMPLATES,
        templates={"user-data.tpl": '{{ config_get("user.user-data", "nothing") }}\n'},
    )


async def says(provider: LxdProvider, instance_id: str, text: str) -> str:
    """The console, once the text is in it."""
    said = ""
    try:
        async with asyncio.timeout(30):
            while text not in said:
                await asyncio.sleep(0.05)
                said = (await provider.console(instance_id, 100_000))[0].decode()
    except TimeoutError:
        raise AssertionError(f"the console lacks {text!r}: {said}") from None
    return said


def config_of(daemon: Daemon, name: str) -> dict[str, str]:
    return dict(daemon.client("hostler").api.instances[name].get().json()["metadata"]["config"])


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


@pytest.mark.usefixtures("images")
async def test_a_container_finds_its_seed_its_size_and_its_network(open_provider: Opener, lxd_daemon: Daemon) -> None:
    provider = await open_provider()
    wanted = container("shows-its-place", b"#cloud-config\n# for cloud-init\n")
    wanted = msgspec.structs.replace(wanted, network=NetworkAccess(allow=(str(lxd_daemon.settings.gateway),)))
    await provider.create(wanted, ignore)
    said = await says(provider, wanted.instance_id, "\ndone")
    assert f"I am {wanted.name} with 1 processors" in said
    for file in ("hostler.env", "meta-data", "network-config", "user-data"):
        assert any(line.startswith("-rw-------") and line.rstrip().endswith(file) for line in said.splitlines())
    assert "# for cloud-init" in said
    assert "1 packets received" in said


async def test_a_flavors_limits_are_the_kernels(open_provider: Opener) -> None:
    provider = await open_provider()
    wanted = msgspec.structs.replace(container(), resources=Resources(vcpus=2, memory_mib=96, disk_gib=1))
    await provider.create(wanted, ignore)
    assert _limits(wanted.name, "memory.max", "memory.limit_in_bytes") == {str(96 << 20)}
    (processors,) = _limits(wanted.name, "cpuset.cpus")
    assert _count(processors) == min(2, len(os.sched_getaffinity(0)))


def _limits(name: str, *files: str) -> set[str]:
    """What stands in the container's own control group, in whatever version the host has them."""
    found = Path("/sys/fs/cgroup").glob(f"**/lxc.payload.hostler_{name}")
    return {(group / file).read_text().strip() for group in found for file in files if (group / file).exists()}


def _count(processors: str) -> int:
    """Of a list as the kernel writes it: 0-1,3."""
    ranges = (part.partition("-") for part in processors.split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


@pytest.mark.usefixtures("images")
async def test_a_container_may_nest_containers(open_provider: Opener) -> None:
    provider = await open_provider()
    wanted = container("nests")
    await provider.create(wanted, ignore)
    said = await says(provider, wanted.instance_id, "nesting ended")
    assert "nested as 0, first is sh" in said


async def test_an_end_is_told_by_an_event_and_nobody_asks_meanwhile(
    open_provider: Opener, lxd_daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = Ends()
    provider = await open_provider(ends)
    wanted = container()
    await provider.create(wanted, ignore)
    asked: list[str] = []
    send = requests.Session.send

    def counted(session: requests.Session, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        if threading.current_thread().name.startswith("lxd"):
            asked.append(str(request.url))
        return send(session, request, **more)

    monkeypatch.setattr(requests.Session, "send", counted)
    await asyncio.sleep(1.5)
    assert asked == []
    lxd_daemon.lxc("stop", "--force", "--project", "hostler", wanted.name)
    assert await ends.next() == wanted.instance_id
    assert asked != []  # only then did the provider look


@pytest.mark.usefixtures("images")
async def test_an_images_own_templates_give_cloud_init_our_user_data(open_provider: Opener) -> None:
    provider = await open_provider()
    wanted = container("has-templates", b"#cloud-config\n# by a template\n")
    await provider.create(wanted, ignore)
    await says(provider, wanted.instance_id, "# by a template")


async def test_lxd_keeps_no_secret_once_the_container_runs(open_provider: Opener, lxd_daemon: Daemon) -> None:
    provider = await open_provider()
    wanted = container(user_data=b"#cloud-config\n# token: the-secret\n")
    await provider.create(wanted, ignore)
    config = config_of(lxd_daemon, wanted.name)
    assert config["user.hostler.id"] == wanted.instance_id
    assert (config["limits.memory"], config["limits.cpu"], config["security.nesting"]) == ("64MiB", "1", "true")
    assert not [key for key in config if "user-data" in key or "network-config" in key]
    kept = str(config) + (lxd_daemon.pool / "containers" / f"hostler_{wanted.name}" / "backup.yaml").read_text()
    assert "the-secret" not in kept
    assert wanted.bootstrap.token not in kept


async def test_a_delete_leaves_nothing(open_provider: Opener, lxd_daemon: Daemon, tmp_path: Path) -> None:
    provider = await open_provider()
    first = container()
    await provider.create(first, ignore)  # what LXD makes once for all is there now
    await provider.delete(first.instance_id)
    before = (interfaces(), rules(), lxd_daemon.volumes())
    wanted = container()
    await provider.create(wanted, ignore)
    assert processes_with(wanted.name)
    assert interfaces() != before[0]
    await provider.delete(wanted.instance_id)
    assert processes_with(wanted.name) == []
    assert (interfaces(), rules(), lxd_daemon.volumes()) == before
    assert lxd_daemon.instances() == []
    assert list((tmp_path / "instances").iterdir()) == []


@pytest.mark.usefixtures("images")
async def test_a_machine_that_reboots_has_ended_and_is_stopped(open_provider: Opener, lxd_daemon: Daemon) -> None:
    ends = Ends()
    provider = await open_provider(ends)
    wanted = container("reboots")
    await provider.create(wanted, ignore)
    assert await ends.next() == wanted.instance_id
    (machine,) = await provider.inventory()
    assert machine.state is MachineState.STOPPED
    async with asyncio.timeout(60):
        while lxd_daemon.status(wanted.name) != "Stopped" or processes_with(f"hostler_{wanted.name}"):
            await asyncio.sleep(0.1)
    assert ends.told.empty()


async def test_an_instance_that_somebody_else_deletes_is_told_as_ended(
    open_provider: Opener, lxd_daemon: Daemon
) -> None:
    ends = Ends()
    provider = await open_provider(ends)
    wanted = container()
    await provider.create(wanted, ignore)
    lxd_daemon.lxc("delete", "--force", "--project", "hostler", wanted.name)
    assert await ends.next() == wanted.instance_id
    assert await provider.inventory() == []
    await provider.delete(wanted.instance_id)


async def test_another_agents_and_the_operators_instances_are_not_ours(
    open_provider: Opener, lxd_daemon: Daemon, tmp_path: Path
) -> None:
    ours = await open_provider()
    theirs = await open_provider(directory=tmp_path / "theirs")
    wanted = container()
    await theirs.create(wanted, ignore)
    lxd_daemon.lxc("init", "stays", "by-hand", "--project", "hostler", "--storage", "default")
    try:
        assert await ours.inventory() == []
        await ours.delete(wanted.instance_id)
        assert [machine.name for machine in await theirs.inventory()] == [wanted.name]
        with pytest.raises(ProviderError, match="already exists"):
            await ours.create(msgspec.structs.replace(container(), name="by-hand"), ignore)
        assert "by-hand" in lxd_daemon.instances()
    finally:
        lxd_daemon.lxc("delete", "--project", "hostler", "by-hand")


async def test_a_half_made_instance_is_shown_and_made_anew(open_provider: Opener, lxd_daemon: Daemon) -> None:
    provider = await open_provider()
    wanted = container()
    await provider.create(wanted, ignore)
    await provider.close()
    # As an agent leaves it that dies between making and starting.
    lxd_daemon.lxc("stop", "--force", "--project", "hostler", wanted.name)
    for phase in ("disk", "started"):
        lxd_daemon.lxc("config", "unset", "--project", "hostler", wanted.name, f"user.hostler.{phase}")
    again = await open_provider()
    assert [machine.state for machine in await again.inventory()] == [MachineState.CREATING]
    assert (await again.create(wanted, ignore)).state is MachineState.RUNNING


@pytest.mark.usefixtures("images")
async def test_a_console_is_kept_by_whoever_is_attached_and_lxd_survives_that_he_goes(
    open_provider: Opener, lxd_daemon: Daemon, tmp_path: Path
) -> None:
    """As for virtual machines, whose console LXD has in the same way."""
    provider = await open_provider()
    wanted = container("talks")
    await provider.create(wanted, ignore)
    file = tmp_path / "console.log"
    client = lxd_daemon.client("hostler")
    for begin in (0, 1):
        consoles = Consoles()
        consoles.attach(client, wanted.name, file)
        consoles.attach(client, wanted.name, file)
        lines = begin * 5 + 5
        async with asyncio.timeout(30):
            while not file.exists() or file.read_bytes().count(b"line") < lines:
                await asyncio.sleep(0.05)
        consoles.close()
        assert client.api.get().status_code == 200
    said = [int(word) for word in file.read_text().split() if word.isdigit()]
    assert said == sorted(set(said))


async def test_drivers_are_what_this_lxd_can_do_with_the_images_it_has_now(
    open_provider: Opener, lxd_daemon: Daemon
) -> None:
    provider = await open_provider()
    offered = {driver.name: driver for driver in provider.drivers}
    assert offered[CONTAINERS].acceleration == "none"
    assert "stays" in offered[CONTAINERS].images
    if VIRTUAL_MACHINES in offered:
        assert "stays" not in offered[VIRTUAL_MACHINES].images
    fingerprint = lxd_daemon.import_container("later", {"sbin/init": "#!/bin/sh\nsleep 1000\n"})
    await provider.inventory()
    (driver,) = [driver for driver in provider.drivers if driver.name == CONTAINERS]
    assert {"later", fingerprint} <= set(driver.images)
    machine = await provider.create(container(fingerprint), ignore)
    assert machine.state is MachineState.RUNNING


async def test_an_image_of_another_kind_or_architecture_is_said(open_provider: Opener) -> None:
    provider = await open_provider()
    with pytest.raises(ImageUnavailable, match="is a container for x86_64, not a virtual-machine for x86_64"):
        await provider.create(msgspec.structs.replace(container(), driver=VIRTUAL_MACHINES), ignore)
    with pytest.raises(ImageUnavailable, match="not a container for aarch64"):
        await provider.create(msgspec.structs.replace(container(), arch=Arch.ARM64), ignore)
    with pytest.raises(ProviderError, match="'libvirt' is not a driver of LXD"):
        await provider.create(msgspec.structs.replace(container(), driver="libvirt"), ignore)
    with pytest.raises(ProviderError, match="beginning with a letter"):
        await provider.create(msgspec.structs.replace(container(), name="9-lives"), ignore)
    with pytest.raises(ProviderError, match="not a UUID"):
        await provider.create(msgspec.structs.replace(container(), instance_id="../x"), ignore)
    assert await provider.inventory() == []


async def test_a_start_that_fails_is_told_with_what_lxds_log_says(open_provider: Opener) -> None:
    provider = await open_provider()
    with pytest.raises(ProviderError, match=r"LXD cannot start 'test-.*/sbin/init"):
        await provider.create(container("has-no-init"), ignore)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"socket": "/nowhere/unix.socket"}, "there is no LXD at /nowhere/unix.socket"),
        ({"storage_pool": "nowhere"}, "LXD has no storage pool 'nowhere'"),
        ({"profiles": ("nowhere",)}, "has no profile 'nowhere'"),
        ({"subnet": "10.222.0.0/24"}, f"the bridge '{NETWORK}' has the address 10.221.0.1, not 10.222.0.1"),
        ({"network": "lo"}, "the interface 'lo' is no bridge"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_what_is_missing_is_said_at_open(
    open_provider: Opener, lxd_daemon: Daemon, tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    await open_provider()
    values = msgspec.structs.asdict(lxd_daemon.settings) | changed
    provider = LxdProvider(LxdSettings(**values), tmp_path / "instances")
    with pytest.raises(ProviderError, match=said):
        await provider.open(lambda _: None)
