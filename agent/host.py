"""What the host has and what it has left: processors, memory, disk, load. Reads the kernel only."""

import itertools
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hostler.errors import ConfigError
from hostler.folders import nearest
from providers.contract import Arch, Resources

_ARCHES = {"x86_64": Arch.AMD64, "amd64": Arch.AMD64, "aarch64": Arch.ARM64, "arm64": Arch.ARM64}
_MIB = 1024**2
_GIB = 1024**3


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept for the host itself, and how often the rest may be promised."""

    vcpus: int
    memory_mib: int
    disk_gib: int
    cpu_overcommit: float = 1.0
    memory_overcommit: float = 1.0
    disk_overcommit: float = 1.0


class Usage(msgspec.Struct, frozen=True):
    load: float  # one-minute load average
    memory_available_mib: int
    disk_available_gib: int


def arch() -> Arch:
    """
    Raises:
        ConfigError: a machine that is neither amd64 nor arm64.
    """
    machine = platform.machine().lower()
    try:
        return _ARCHES[machine]
    except KeyError:
        raise ConfigError(f"this host is {machine}", hint="agents run on amd64 and arm64") from None


def total(*directories: Path) -> Resources:
    """What there is for instances, images of the catalogue and the host together.

    Disk is what `directories` (where these live, and nothing else) already fill plus what the file system of the first
    has free: what others filled, the host's own images too, is not ours to promise, and what these fill is.
    """
    return Resources(
        vcpus=len(os.sched_getaffinity(0)),
        memory_mib=_meminfo_mib("MemTotal"),
        disk_gib=(_free_bytes(directories[0]) + _filled_bytes(directories)) // _GIB,
    )


def capacity(total: Resources, reserve: Reserve) -> Resources:
    """What instances may use: what the reserve leaves, as often as it may be promised.

    Raises:
        ConfigError: the reserve leaves nothing.
    """
    left = Resources(
        vcpus=int((total.vcpus - reserve.vcpus) * reserve.cpu_overcommit),
        memory_mib=int((total.memory_mib - reserve.memory_mib) * reserve.memory_overcommit),
        disk_gib=int((total.disk_gib - reserve.disk_gib) * reserve.disk_overcommit),
    )
    for name in ("vcpus", "memory_mib", "disk_gib"):
        if getattr(left, name) < 1:
            has, kept = getattr(total, name), getattr(reserve, name)
            raise ConfigError(
                f"key 'capacity.reserved_{name}': {kept} leaves nothing of this host's {has} for instances",
                hint="lower it, or free some",
            )
    return left


def usage(directory: Path) -> Usage:
    return Usage(
        load=os.getloadavg()[0],
        memory_available_mib=_meminfo_mib("MemAvailable"),
        disk_available_gib=_free_bytes(directory) // _GIB,
    )


def _meminfo_mib(key: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024 // _MIB
    raise RuntimeError(f"/proc/meminfo has no {key}")


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(nearest(directory))
    return found.f_bavail * found.f_frsize


def _filled_bytes(directories: Iterable[Path]) -> int:
    """A file with several names is there once: machines hold their images by hard links."""
    filled: dict[int, int] = {}
    for folder, _, names in itertools.chain.from_iterable(map(os.walk, directories)):
        for name in names:
            try:
                path = Path(folder, name)
                filled[path.lstat().st_ino] = _used_bytes(path)
            except FileNotFoundError:  # a machine is just being deleted
                continue
    return sum(filled.values())


def _used_bytes(path: Path) -> int:
    """What a file fills of the disk; an overlay's size is another matter."""
    return path.lstat().st_blocks * 512
