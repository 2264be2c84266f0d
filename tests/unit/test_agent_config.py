"""The agent's configuration file: defaults, and what each wrong key is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent import daemon, host
from agent.config import AgentConfig, ImagesSection, load
from agent.host import Reserve, capacity
from agent.several import Several
from agent.with_libvirt import LibvirtConfig
from agent.with_several import SeveralConfig
from agent.with_simulated import SimulatedConfig
from hostler.errors import ConfigError
from providers.contract import Arch, HypervisorUnavailable, Resources
from providers.images import qemu_img
from providers.isolation import Firewall, Watch
from providers.libvirt.provider import LibvirtProvider
from providers.lxd.provider import LxdProvider
from providers.simulated import SimulatedProvider


def read(tmp_path: Path, text: str) -> AgentConfig:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load(path)


def test_everything_but_the_driver_has_a_default(tmp_path: Path) -> None:
    config = read(tmp_path, "[simulated]")
    assert isinstance(config, SimulatedConfig)
    assert config.data_dir == "/var/lib/hostler-agent"
    assert config.coordinator.address == ""
    assert config.capacity.cpu_overcommit == 1.0
    assert config.host.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one of [libvirt], [lxd], [simulated] is needed, or several, found none"),
        ("[libvirt]\n[lxd]\nimage = []\nspeed = 1", "key 'lxd.image': unknown"),
        ("colour = 1\n[libvirt]\n[lxd]", "key 'colour': unknown; allowed here: data_dir, log_level, host"),
        (
            "[libvirt]\nsubnet = '10.213.0.0/16'\n[lxd]\nsubnet = '10.213.8.0/22'",
            "key 'lxd.subnet': 10.213.8.0/22 overlaps 10.213.0.0/16 of [libvirt]",
        ),
        (
            "[libvirt]\nnetwork = 'ours'\n[lxd]\nnetwork = 'ours0'",
            "key 'lxd.network': [libvirt] has the bridge 'ours0'",
        ),
        ("[simulated", "not valid TOML"),
        ("log_level = 'loud'\n[simulated]", "key 'log_level': Invalid enum value 'loud'"),
        ("data_dir = 'here'\n[simulated]", "data_dir: 'here' must be an absolute path"),
        ("colour = 1\n[simulated]", "key 'colour': unknown; allowed here: data_dir, log_level, host"),
        ("[host]\nname = 'a b'\n[simulated]", "key 'host': name: 'a b' is not a host name"),
        ("[coordinator]\naddress = 'localhost'\n[simulated]", "address: 'localhost' is not HOST:PORT"),
        ("[coordinator]\naddress = '127.0.0.1:0'\n[simulated]", "the port must be from 1 to 65535"),
        ("[capacity]\nreserved_vcpus = -1\n[simulated]", "reserved_vcpus: must be 0 or more"),
        ("[capacity]\ncpu_overcommit = 0.5\n[simulated]", "cpu_overcommit: must be from 1.0 to 32.0"),
        ("[capacity]\nmemory_overcommit = 4.1\n[simulated]", "memory_overcommit: must be from 1.0 to 4.0"),
        ("[capacity]\ndisk_overcommit = 0.9\n[simulated]", "disk_overcommit: must be from 1.0 to 16.0"),
        ("[capacity]\nlow_disk_gib = -1\n[simulated]", "low_disk_gib: must be 0 or more"),
        ("[capacity]\ncpu_overcommit = nan\n[simulated]", "cpu_overcommit: must be from 1.0 to 32.0"),
        ("[simulated]\nimages = []", "name at least one image"),
        ("[simulated]\ndisk_seconds = -1", "key 'simulated.disk_seconds'"),
        ("[libvirt]\nspeed = 1", "key 'libvirt.speed': unknown"),
        ("[lxd]\nspeed = 1", "key 'lxd.speed': unknown; allowed here: socket, project, storage_pool, network, subnet"),
        ("[lxd]\nsocket = 'here'", "key 'lxd': socket: 'here' must be an absolute path"),
        ("[lxd]\nproject = 'a b'", "key 'lxd': project: 'a b' must be letters, digits and ._-"),
        ("[lxd]\nnetwork = 'longer-than-linux'", "key 'lxd': network: 'longer-than-linux' must be 2 to 15 of"),
        ("[lxd]\nsubnet = '8.8.8.0/24'", "key 'lxd': subnet: '8.8.8.0/24' is not a private network"),
        ("[lxd]\nprofiles = ['']", "key 'lxd': profiles: '' must be letters"),
        (
            "[libvirt]\n" + 2 * "[[image]]\nname = 'a'\npath = '/a'\narch = 'amd64'\n",
            "the name 'a' for amd64 is given to more than one [[image]]",
        ),
        (
            "[libvirt]\n" + 2 * "[[device]]\nname = 'gpu'\nids = ['10de:20b0']\n",
            "the name 'gpu' is given to more than one [[device]]",
        ),
        ("[libvirt]\n[[device]]\nname = 'gpu'\nids = ['10de']\n", "ids: '10de' is no vendor:product"),
        ("[lxd]\n[[device]]\nname = 'gpu'\n", "key 'device': unknown; allowed here: data_dir"),
        ("[simulated]\ndevices = { gpu = -1 }\n", "key 'simulated': devices: of 'gpu' there may be 0 to 64, not -1"),
    ],
)
def test_a_wrong_key_is_named_with_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "agent.toml"))
    assert said in str(caught.value)


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = read(tmp_path, "[libvirt]\n[[image]]\nname = 'a'\npath = '/nowhere/a.qcow2'\narch = 'amd64'\n")
    with pytest.raises(ConfigError, match=r"/nowhere/a\.qcow2 of image 'a' is no file"):
        config.check_files()


def test_a_name_may_be_an_image_of_each_architecture(tmp_path: Path) -> None:
    text = "[libvirt]\n" + "".join(f"[[image]]\nname = 'a'\npath = '/{of}'\narch = '{of}'\n" for of in Arch)
    config = read(tmp_path, text)
    assert isinstance(config, LibvirtConfig)
    assert [image.arch for image in config.image] == list(Arch)


def test_a_host_needs_no_image_of_its_own(tmp_path: Path) -> None:
    read(tmp_path, "[libvirt]").check_files()


def test_a_directory_of_images_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = read(tmp_path, "[simulated]\n[images]\nfile_directories = ['/nowhere']\n")
    with pytest.raises(ConfigError, match=r"file_directories': /nowhere is no directory"):
        config.check_files()


def test_authorities_of_image_servers_are_a_file_of_certificates(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    config = read(tmp_path, f"[simulated]\n[images]\nca_file = '{file}'\n")
    with pytest.raises(ConfigError, match=r"images\.ca_file': .* is no file of certificates"):
        config.check_files()
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    config.check_files()
    assert config.images.room(100).ca_file == file
    with pytest.raises(ConfigError, match=r"ca_file: 'ca\.pem' must be an absolute path"):
        read(tmp_path, "[simulated]\n[images]\nca_file = 'ca.pem'\n")


@pytest.mark.parametrize(("disk_gib", "quota"), [(1000, 100), (50, 10), (8, 4), (1, 1)])
def test_images_may_take_a_tenth_of_the_disk_where_nothing_is_said(disk_gib: int, quota: int) -> None:
    assert ImagesSection().quota(disk_gib) == quota
    assert ImagesSection(quota_gib=7).room(disk_gib).quota_bytes == 7 << 30


def test_what_images_may_take_is_not_promised_to_instances(tmp_path: Path) -> None:
    config = read(tmp_path, "[simulated]\n[images]\nquota_gib = 30\n[capacity]\nreserved_disk_gib = 5\n")
    whole = Resources(vcpus=8, memory_mib=16384, disk_gib=100)
    assert daemon.capacity(config, whole).disk_gib == 65


def test_an_image_that_machines_hold_fills_the_disk_once(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 1_000_000)
    once = host._filled_bytes([tmp_path])
    for number in range(5):
        (tmp_path / f"machine-{number}").hardlink_to(image)
    assert host._filled_bytes([tmp_path]) == once


async def test_an_lxd_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[object] = []
    monkeypatch.setattr(Watch, "open", lambda _: None)
    monkeypatch.setattr(Firewall, "hold", lambda _, guests: held.append(guests))
    config = read(
        tmp_path, f"data_dir = '{tmp_path}'\n[capacity]\nreserved_disk_gib = 0\n[lxd]\nsocket = '{tmp_path}/socket'"
    )
    with pytest.raises(HypervisorUnavailable, match=rf"there is no LXD at {tmp_path}/socket"):
        await daemon.check(config, config.make_provider())
    assert held == [{}]  # before it was asked


def test_several_drivers_share_what_is_the_hosts_and_keep_apart_what_is_theirs(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"data_dir = '{tmp_path}'\n[images]\nquota_gib = 30\n[libvirt]\n[lxd]\n[simulated]\n"
        "[[image]]\nname = 'a'\npath = '/a'\n",
    )
    assert isinstance(config, SeveralConfig)
    assert list(config.parts) == ["libvirt", "lxd", "simulated"]
    assert config.finish_image is qemu_img.make_base
    whole = Resources(vcpus=8, memory_mib=16384, disk_gib=100)
    assert daemon.capacity(config, whole) == Resources(vcpus=8, memory_mib=15360, disk_gib=60)  # once, not thrice
    provider = config.make_provider()
    assert isinstance(provider, Several)
    libvirt, lxd, simulated = (part.provider for part in provider._parts.values())
    assert isinstance(libvirt, LibvirtProvider)
    assert isinstance(lxd, LxdProvider)
    assert isinstance(simulated, SimulatedProvider)
    assert libvirt._firewall.network.neighbours == (lxd._firewall.network.subnet,)
    assert lxd._firewall.network.neighbours == (libvirt._firewall.network.subnet,)
    assert len({libvirt._store.root, lxd._directory, simulated._directory}) == 3


@pytest.mark.parametrize(("table", "status"), [("simulated", 0), ("libvirt", 2), ("lxd", 2)])
def test_a_hypervisors_bindings_are_needed_only_when_asked_for(tmp_path: Path, table: str, status: int) -> None:
    (tmp_path / "agent.toml").write_text(f"data_dir = '{tmp_path}/data'\n[{table}]\n[capacity]\nreserved_disk_gib = 0")
    # As if neither were installed.
    program = "import sys; sys.modules |= {'libvirt': None, 'pylxd': None}; from agent.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--config", str(tmp_path / "agent.toml"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert (f"pip install 'hostler[agent,{table}]'" in ended.stderr) == (status == 2)


def test_capacity_is_what_the_reserve_leaves_as_often_as_it_may_be_promised() -> None:
    whole = Resources(vcpus=8, memory_mib=16384, disk_gib=100)
    reserve = Reserve(vcpus=2, memory_mib=4096, disk_gib=10, cpu_overcommit=2.5)
    assert capacity(whole, reserve) == Resources(vcpus=15, memory_mib=12288, disk_gib=90)
    more = Reserve(vcpus=2, memory_mib=4096, disk_gib=10, memory_overcommit=1.5, disk_overcommit=2.05)
    assert capacity(whole, more) == Resources(vcpus=6, memory_mib=18432, disk_gib=184)


def test_a_reserve_that_leaves_nothing_names_its_key() -> None:
    whole = Resources(vcpus=8, memory_mib=1024, disk_gib=100)
    with pytest.raises(ConfigError, match=r"key 'capacity\.reserved_memory_mib': 1024 leaves nothing"):
        capacity(whole, Reserve(vcpus=0, memory_mib=1024, disk_gib=10, cpu_overcommit=1.0))
