"""Whether machines run under KVM or under QEMU's own translator (TCG), proved by running a guest.

Neither /dev/kvm nor libvirt's capabilities prove that KVM runs code: inside some virtual machines it opens, makes
guests and gets nowhere with them.
"""

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from providers.contract import HypervisorUnavailable
from providers.libvirt.domain import Acceleration
from providers.libvirt.proof_guest import GUESTS, ProofGuest

# SeaBIOS and the countdown take 0.2 s; under a KVM that is itself emulated, 2 s, and on a busy machine many times that.
TIME_LIMIT_SECONDS: Final = 30
_DEVICE: Final = Path("/dev/kvm")
_TOO_SLOW: Final = "a guest that needs less than a second did not end in"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = structlog.get_logger(__name__)


class Proof(msgspec.Struct, frozen=True):
    """What was found out, and for which boot of this machine and which QEMU it holds."""

    boot_id: str
    qemu: str
    works: bool
    detail: str


def choose(setting: Literal["auto", "kvm", "tcg"], remembered: Path) -> Acceleration:
    """Decide by the setting. Blocks for seconds when the file `remembered` has no answer for this boot.

    Raises:
        HypervisorUnavailable: `kvm` is demanded and does not work.
    """
    if setting == "tcg":
        return Acceleration.TCG
    proof = prove(remembered)
    if proof.works:
        return Acceleration.KVM
    if setting == "kvm":
        raise HypervisorUnavailable(
            f"KVM does not work here: {proof.detail}",
            hint=f'enable virtualization for this machine, or set [libvirt] acceleration = "tcg"; the answer is '
            f"remembered in {remembered} until the next boot",
        )
    _log.warning("kvm_unusable", detail=proof.detail, acceleration="tcg")
    return Acceleration.TCG


def prove(remembered: Path) -> Proof:
    """The remembered answer, or a new one."""
    boot_id = _BOOT_ID.read_text().strip()
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        reason = "may not be opened by this user" if _DEVICE.exists() else "does not exist"
        return Proof(boot_id, "", works=False, detail=f"{_DEVICE} {reason}")
    emulator, guest = find_emulator(), GUESTS.get(platform.machine())
    if emulator is None or guest is None:
        return Proof(boot_id, "", works=False, detail=f"no QEMU for {platform.machine()} is installed")
    qemu = _version(emulator)
    known = _recall(remembered)
    if known is not None and (known.boot_id, known.qemu) == (boot_id, qemu):
        return known
    detail = run_guest(emulator, guest, Acceleration.KVM)
    proof = Proof(boot_id, qemu, works=not detail, detail=detail)
    if not detail.startswith(_TOO_SLOW):  # a host that is busy says nothing of the next time
        _remember(proof, remembered)
    return proof


def run_guest(
    emulator: str, guest: ProofGuest, acceleration: Acceleration, time_limit_seconds: float = TIME_LIMIT_SECONDS
) -> str:
    """Run a proof guest once: empty when it ran as it must, otherwise what went wrong."""
    with tempfile.NamedTemporaryFile(suffix=".img") as image:
        image.write(guest.image)
        image.flush()
        try:
            done = subprocess.run(
                _command(emulator, guest, acceleration, image.name),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=time_limit_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{_TOO_SLOW} {time_limit_seconds:g} s"
        except OSError as error:
            return f"{emulator} cannot be run: {error.strerror}"
    if done.returncode == guest.exit_status:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"the guest ended with {done.returncode}" + (f": {said[-1]}" if said else "")


def find_emulator() -> str | None:
    """This machine's own system emulator; distributions of the Red Hat family keep it out of PATH."""
    return shutil.which(f"qemu-system-{platform.machine()}") or shutil.which("/usr/libexec/qemu-kvm")


def _command(emulator: str, guest: ProofGuest, acceleration: Acceleration, image: str) -> list[str]:
    command = [emulator, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "32"]
    command += ["-accel", acceleration, "-cpu", "host" if acceleration is Acceleration.KVM else "max"]
    return [*command, *(argument.replace("{image}", image) for argument in guest.arguments)]


def _version(emulator: str) -> str:
    try:
        done = subprocess.run([emulator, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0]


def _recall(path: Path) -> Proof | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Proof)
    except (OSError, msgspec.MsgspecError):
        return None


def _remember(proof: Proof, path: Path) -> None:
    try:
        path.write_bytes(msgspec.json.encode(proof) + b"\n")
    except OSError as error:
        _log.warning("kvm_proof_not_remembered", path=str(path), error=str(error))
