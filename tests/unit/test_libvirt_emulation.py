"""Which other architectures a host may be told to emulate."""

from pathlib import Path
from typing import cast

import libvirt
import pytest

from providers.contract import Arch
from providers.libvirt import emulation
from providers.libvirt.domain import is_host_arch
from providers.libvirt.emulation import CannotEmulate, check

OWN = next(arch for arch in Arch if is_host_arch(arch))
OTHER = next(arch for arch in Arch if not is_host_arch(arch))


class Connection:
    """libvirt, as far as it is asked."""

    def __init__(self, refusal: str = "", *, alive: bool = True) -> None:
        self._refusal = refusal
        self._alive = alive

    def getDomainCapabilities(self, *_: object) -> str:  # noqa: N802 - libvirt's own name
        if self._refusal:
            raise libvirt.libvirtError(self._refusal)
        return ""

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's own name
        return self._alive


def _check(conn: Connection, *arches: Arch) -> None:
    check(cast("libvirt.virConnect", conn), arches)


@pytest.fixture(autouse=True)
def firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    files = [tmp_path / "code", tmp_path / "variables"]
    for name, file in zip(("ARM64_FIRMWARE", "ARM64_VARIABLES"), files, strict=True):
        file.touch()
        monkeypatch.setattr(emulation, name, file)
    return files


def test_a_host_with_emulator_and_firmware_may_emulate() -> None:
    _check(Connection(), OTHER)
    _check(Connection("nobody asks"))


def test_a_hosts_own_architecture_is_not_emulated_by_this_key() -> None:
    with pytest.raises(CannotEmulate, match=r"libvirt\.emulate.*own architecture"):
        _check(Connection(), OWN)


def test_an_emulator_that_is_missing_is_told_with_the_packages_that_have_it() -> None:
    with pytest.raises(CannotEmulate, match="unable to find any emulator") as refused:
        _check(Connection("unable to find any emulator"), OTHER)
    assert "apt-get install qemu-system-" in str(refused.value)


def test_a_firmware_that_is_missing_is_told(firmware: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "is_host_arch", lambda arch: arch is Arch.AMD64)
    firmware[1].unlink()
    with pytest.raises(CannotEmulate, match=f"there is no {firmware[1]}.*qemu-efi-aarch64"):
        _check(Connection(), Arch.ARM64)


def test_a_libvirt_that_went_away_is_not_taken_for_a_missing_emulator() -> None:
    with pytest.raises(libvirt.libvirtError):
        _check(Connection("broken pipe", alive=False), OTHER)
