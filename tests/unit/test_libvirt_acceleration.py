"""Whether KVM works: asked once for each boot and QEMU, and remembered; no machine's own KVM is needed here."""

import platform
from pathlib import Path

import pytest

from providers.contract import HypervisorUnavailable
from providers.libvirt import acceleration
from providers.libvirt.acceleration import choose, prove
from providers.libvirt.domain import Acceleration


class Host:
    """A machine with a KVM that works or not, as a test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.remembered = folder / "kvm-proof.json"
        self.device = folder / "kvm"
        self.device.touch()
        self._boot = folder / "boot_id"
        self.says = ""  # how the proof guest ends; empty: well
        self.asked = 0
        self.qemu = "QEMU 7.2"
        self.emulator: str | None = "/usr/bin/qemu"
        self.boot("first")
        monkeypatch.setattr(acceleration, "_DEVICE", self.device)
        monkeypatch.setattr(acceleration, "_BOOT_ID", self._boot)
        monkeypatch.setattr(acceleration, "find_emulator", lambda: self.emulator)
        monkeypatch.setattr(acceleration, "_version", lambda _: self.qemu)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(acceleration, "run_guest", self._run_guest)

    def boot(self, boot_id: str) -> None:
        self._boot.write_text(f"{boot_id}\n")

    def _run_guest(self, *_: object) -> str:
        self.asked += 1
        return self.says


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


@pytest.mark.parametrize("says", ["", "the guest ended with 1: failed to initialize kvm"])
def test_the_answer_is_remembered(host: Host, says: str) -> None:
    host.says = says
    first = prove(host.remembered)
    assert (first.works, first.detail, first.boot_id) == (not says, says, "first")
    host.says = "it was asked again"
    assert prove(host.remembered) == first
    assert host.asked == 1


def test_a_guest_that_was_too_slow_is_asked_anew(host: Host) -> None:
    """The host may have been busy: so are many just after they have booted."""
    host.says = "a guest that needs less than a second did not end in 20 s"
    assert not prove(host.remembered).works
    host.says = ""
    assert prove(host.remembered).works


def test_another_boot_or_another_qemu_is_asked_anew(host: Host) -> None:
    prove(host.remembered)
    host.boot("second")
    assert prove(host.remembered).boot_id == "second"
    host.qemu = "QEMU 8.0"
    assert prove(host.remembered).qemu == "QEMU 8.0"
    assert host.asked == 3


def test_what_cannot_be_read_is_asked_anew(host: Host) -> None:
    host.remembered.write_text("junk")
    assert prove(host.remembered).works
    assert prove(host.remembered).works
    assert host.asked == 1


def test_what_cannot_be_remembered_is_still_an_answer(host: Host) -> None:
    host.remembered = host.remembered.parent / "nowhere" / "kvm-proof.json"
    assert prove(host.remembered).works
    assert prove(host.remembered).works
    assert host.asked == 2


def test_the_setting_decides_what_an_answer_means(host: Host) -> None:
    assert choose("tcg", host.remembered) is Acceleration.TCG
    assert host.asked == 0
    assert choose("auto", host.remembered) is choose("kvm", host.remembered) is Acceleration.KVM
    host.boot("second")
    host.says = "the guest ended with 1"
    assert choose("auto", host.remembered) is Acceleration.TCG
    with pytest.raises(HypervisorUnavailable, match=r"the guest ended with 1.*remembered in .*kvm-proof\.json"):
        choose("kvm", host.remembered)


def test_a_host_without_kvm_or_qemu_is_not_asked_and_nothing_is_remembered(host: Host) -> None:
    host.emulator = None
    assert "no QEMU for x86_64 is installed" in prove(host.remembered).detail
    host.device.unlink()
    assert prove(host.remembered).detail == f"{host.device} does not exist"
    assert choose("auto", host.remembered) is Acceleration.TCG
    assert not host.remembered.exists()
    assert host.asked == 0
