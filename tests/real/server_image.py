"""The build server's disk, built once and kept for as long as nothing that it is made of has changed."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tests.demo.places import CACHE, ROOT

VENV: Final = "opt/hostler"
"""In the image: a virtual environment with all that the agent needs, but without the agent."""

_EXTRAS: Final = "agent,libvirt,lxd"
_PACKAGES: Final = (
    *("systemd-sysv", "udev", "dbus", "kmod", "linux-image-cloud-amd64", "procps", "qemu-guest-agent"),
    *("iproute2", "nftables", "iptables", "ca-certificates", "python3-minimal", "python3-venv"),
    *("qemu-system-x86", "qemu-utils", "ovmf", "libvirt-daemon-system", "libvirt-clients", "dnsmasq-base"),
    *("lxd", "lxd-client", "squashfs-tools", "xz-utils", "busybox-static"),
)
_UNWANTED: Final = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
_FILES: Final = {
    "etc/hostname": "build-server\n",
    "etc/hosts": "127.0.0.1 localhost build-server\n",
    "etc/fstab": "",
    "etc/machine-id": "",
    # As modprobe would on a host that has the hardware, and as LXD's own package asks for.
    "etc/modules-load.d/build-server.conf": "kvm_amd\nvhost_vsock\n",
    "etc/systemd/network/uplink.network": "[Match]\nName=en*\n[Network]\nDHCP=ipv4\n",
}
_MASKED: Final = (
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "e2scrub_reap.service",
    ),
    *("fstrim.timer", "man-db.timer", "systemd-timesyncd.service", "serial-getty@ttyS0.service", "getty@tty1.service"),
)
_DISK: Final = "8G"
_BUILD_SECONDS: Final = 500


class Image(msgspec.Struct, frozen=True):
    """What the server is started with; none of it is written to."""

    disk: Path
    kernel: Path
    initrd: Path


def server_image() -> Image:
    folder = CACHE / "build-server"
    with fresh(folder, _key()) as work:
        if work is not None:
            _build(work)
    return Image(folder / "disk.qcow2", folder / "vmlinuz", folder / "initrd.img")


@contextmanager
def fresh(folder: Path, key: str) -> Iterator[Path | None]:
    """An empty folder to fill when `folder` is not what `key` says; it takes its place at the end."""
    known = folder.with_name(f"{folder.name}.inputs")
    if folder.exists() and known.exists() and known.read_text() == key:
        yield None
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{folder.name}.") as scratch:
        work = Path(scratch, "new")
        work.mkdir()
        yield work
        known.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    known.write_text(key)


def _key() -> str:
    parts = [
        Path(__file__).read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
        (ROOT / "constraints.txt").read_bytes(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _build(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        root = Path(scratch, "root")
        excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in _UNWANTED]
        run(
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(_PACKAGES)}"),
            *(*excludes, "--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"', "bookworm", str(root)),
        )
        for name, text in _FILES.items():
            (root / name).write_text(text)
        run("systemctl", f"--root={root}", "--quiet", "enable", "systemd-networkd")
        run("systemctl", f"--root={root}", "--quiet", "mask", *_MASKED)
        # What LXD's machines boot by. UEFI writes CR8, at which emulated SVM makes QEMU abort, up to 11.1 at least:
        # cpu_interrupt is called without its lock ("assertion failed: (bql_locked())").
        for firmware in (root / "usr/share/OVMF").glob("OVMF_CODE*.fd"):
            shutil.copy(root / "usr/share/seabios/bios-256k.bin", firmware)
        _install_dependencies(root, Path(scratch, "wheels"))
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, folder / "vmlinuz")
        shutil.copy(str(kernel).replace("vmlinuz", "initrd.img"), folder / "initrd.img")
        raw = Path(scratch, "raw")
        run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", str(root), str(raw), _DISK)
        run("qemu-img", "convert", "-O", "qcow2", str(raw), str(folder / "disk.qcow2"))


def _install_dependencies(root: Path, wheels: Path) -> None:
    """All that the checkout's wheel will need, so that the server needs no index of packages."""
    requirements = _requirements()
    build_wheels(wheels, "--no-build-isolation", "--constraint", str(pins(wheels.parent)), *requirements)
    inside = root / "wheels"
    shutil.copytree(wheels, inside)
    run("chroot", str(root), "python3", "-m", "venv", f"/{VENV}")
    install = ["-m", "pip", "install", "-qq", "--no-index", "--find-links", "/wheels", *requirements]
    run("chroot", str(root), f"/{VENV}/bin/python", *install)
    shutil.rmtree(inside)


def build_wheels(folder: Path, *what: str) -> None:
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--disable-pip-version-check", "--wheel-dir", str(folder), *what)


def pins(folder: Path) -> Path:
    """The versions of constraints.txt; with their hashes nothing could be built from a folder."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if re.match(r"[A-Za-z0-9]", line)]
    file = folder / "pins.txt"
    file.write_text("".join(f"{line.removesuffix(chr(92)).strip()}\n" for line in lines))
    return file


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(one for extra in _EXTRAS.split(",") for one in extras[extra])]


def run(*command: str) -> None:
    """What it prints is of no interest, unless it is an error."""
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, check=True, timeout=_BUILD_SECONDS, env=environment, stdout=subprocess.DEVNULL)
