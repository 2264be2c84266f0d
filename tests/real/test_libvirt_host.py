"""What the libvirt provider needs of its host: the daemon, the network and an accelerator that works."""

import shutil
from ipaddress import IPv4Address
from pathlib import Path

import libvirt
import msgspec
import pytest

from providers.contract import HypervisorUnavailable
from providers.libvirt import ImageFile, LibvirtProvider, LibvirtSettings
from providers.libvirt.acceleration import choose, prove, run_guest
from providers.libvirt.domain import Acceleration
from providers.libvirt.network import ensure_network
from providers.libvirt.proof_guest import GUESTS
from tests.real.conftest import SETTINGS

pytestmark = pytest.mark.real


async def test_a_libvirt_that_is_not_there_is_said_at_open(images: list[ImageFile], tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, uri=f"qemu+unix:///system?socket={tmp_path}/nobody")
    provider = LibvirtProvider(settings, images, tmp_path / "instances")
    with pytest.raises(HypervisorUnavailable, match="nobody"):
        await provider.open(lambda _: None)


def test_the_network_is_made_once_and_a_different_one_is_refused(conn: libvirt.virConnect) -> None:
    assert ensure_network(conn, SETTINGS) == ensure_network(conn, SETTINGS) == IPv4Address("10.219.0.1")
    with pytest.raises(HypervisorUnavailable, match=r"exists with 10\.219\.0\.1"):
        ensure_network(conn, msgspec.structs.replace(SETTINGS, subnet="10.218.0.0/24"))
    clash = LibvirtSettings(network="hostler-clash", subnet=SETTINGS.subnet)
    with pytest.raises(HypervisorUnavailable, match="cannot be started"):
        ensure_network(conn, clash)


@pytest.mark.parametrize("machine", sorted(GUESTS))
def test_a_proof_guest_runs_where_code_runs_and_only_there(machine: str) -> None:
    emulator, guest = shutil.which(f"qemu-system-{machine}"), GUESTS[machine]
    if emulator is None:
        pytest.skip(f"qemu-system-{machine} is not installed")
    assert run_guest(emulator, guest, Acceleration.TCG) == ""
    assert "did not end in 0.01 s" in run_guest(emulator, guest, Acceleration.TCG, time_limit_seconds=0.01)
    assert "cannot be run" in run_guest("/nonexistent/qemu", guest, Acceleration.TCG)


def test_this_machine_gives_an_answer_about_kvm_and_keeps_to_it(tmp_path: Path) -> None:
    """How answers are remembered is tested in tests/unit, for machines with and without KVM."""
    remembered = tmp_path / "kvm-proof.json"
    found = prove(remembered)
    assert prove(remembered) == found
    assert found.works is not bool(found.detail)
    assert choose("auto", remembered) is (Acceleration.KVM if found.works else Acceleration.TCG)
    assert remembered.exists() is bool(found.qemu)  # where there is no KVM to ask, the next look costs nothing
