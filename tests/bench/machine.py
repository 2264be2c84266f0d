"""The machine that is measured on, and what its processes use. Facts from /proc (man 5 proc)."""

import os
import platform
from pathlib import Path
from typing import Final

import msgspec

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class Machine(msgspec.Struct, frozen=True):
    cores: int
    processor: str
    python: str
    filesystem: str

    def describe(self) -> str:
        return f"{self.cores} cores ({self.processor}), Python {self.python}, data on {self.filesystem}"

    @property
    def has_real_disk(self) -> bool:
        """Durable commits cost nothing on a file system in memory."""
        return self.filesystem not in _IN_MEMORY


def this_machine(folder: Path) -> Machine:
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=_processor(),
        python=platform.python_version(),
        filesystem=_filesystem(folder),
    )


def rss_mib(pid: int) -> float:
    """Resident memory of one process."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of one process so far, to a hundredth of a second."""
    # The program's name, in parentheses, may hold anything; the numbered fields follow it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(folder: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        if len(mount) >= len(best) and folder.resolve().is_relative_to(mount):
            best, kind = mount, found
    return kind
