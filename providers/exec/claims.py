"""Who is making an instance: a locked file per create, which its executable holds open for as long as it runs.

A coordinator that is killed leaves its executables behind, and they go on making machines. The lock (flock) belongs to
the open file, which the executable and all that it starts have inherited: it ends with the last of them, whoever began
them, and no number of a process need be believed.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from providers.exec.errors import StillMaking


class Claims:
    """Of this machine alone. `directory` is made when it is needed; without one nothing is claimed."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    @contextmanager
    def claim(self, name: str) -> Iterator[tuple[int, ...]]:
        """Claim an instance; gives the open files that the executable must inherit.

        Raises:
            StillMaking: an earlier call holds it.
        """
        if self._directory is None:
            yield ()
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(name)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _lock(file):
                raise StillMaking(f"an earlier call is still making '{name}'")
            os.utime(file)
            yield (file,)
        finally:
            os.close(file)
            self._clear(path)

    def is_held(self, name: str, timeout_seconds: float) -> bool:
        """Whether anything is still making it. What has been at it for longer than that is killed."""
        if self._directory is None:
            return False
        path = self._path(name)
        try:
            begun = path.stat().st_mtime
        except FileNotFoundError:
            return False
        if self._clear(path):
            return False
        if time.time() - begun > timeout_seconds:
            _end_holders(path)
        return True

    def _path(self, name: str) -> Path:
        assert self._directory is not None  # noqa: S101 (asked for only where there is one)
        return self._directory / f"{name}.lock"

    def _clear(self, path: Path) -> bool:
        """Remove a file that nobody holds; False when somebody does."""
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            if not _lock(file):
                return False
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(file)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_holders(path: Path) -> None:
    """Kill every process, but this one, that has the file open."""
    with suppress(FileNotFoundError):
        wanted = path.stat()
        for process in Path("/proc").iterdir():
            if process.name.isdecimal() and int(process.name) != os.getpid() and _has_open(process, wanted):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(process.name), signal.SIGKILL)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    with suppress(OSError):  # it has ended, or is not ours
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(file.stat(), wanted):
                    return True
    return False
