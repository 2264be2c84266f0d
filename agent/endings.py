"""How instances ended, kept for a day on disk, so that a late command never boots a machine that was deleted."""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import structlog

from hostler.errors import HostlerError
from providers.contract import Phase

KEPT_FOR: Final = timedelta(hours=24)
_LINES: Final = 1000  # that are appended before the file is rewritten without those that are of no use any more

_log = structlog.get_logger(__name__)


class Ending(msgspec.Struct, frozen=True):
    """Written when a delete is ordered (before anything is destroyed) or a create has failed."""

    instance_id: str
    generation: int
    phase: Phase  # DELETED or FAILED
    at: datetime
    detail: str = ""
    error_code: str = ""


class EndingsUnreadable(HostlerError):
    code = "data_dir_unusable"
    hint = "check the agent's data_dir and its file system"


class Endings:
    """An append-only file of JSON lines: one small write and one sync per ending, rewritten now and then."""

    def __init__(self, path: Path, *, now: Callable[[], datetime]) -> None:
        self._path = path
        self._now = now
        self._ended: dict[str, Ending] = {}  # the oldest first
        self._appended = 0
        self._writing = asyncio.Lock()

    def load(self) -> None:
        """Read what an earlier process kept. Blocks; called once, before anything runs.

        Raises:
            EndingsUnreadable: the file is there and cannot be used.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise EndingsUnreadable(f"{self._path}: cannot be read: {error}") from error
        # A crash in the middle of a write leaves a torn last line: its command was not begun.
        for line in content.split(b"\n"):
            if line:
                self._take(line)
        try:
            self._rewrite(self._live())
        except OSError as error:
            raise EndingsUnreadable(f"{self._path}: cannot be written: {error}") from error

    def get(self, instance_id: str) -> Ending | None:
        ending = self._ended.get(instance_id)
        return ending if ending is not None and self._is_live(ending) else None

    def remember(self, ending: Ending) -> None:
        """Known from now on in this process; `persist` makes it outlive it."""
        self._ended.pop(ending.instance_id, None)
        self._ended[ending.instance_id] = ending
        self._forget_the_old()

    async def persist(self, ending: Ending) -> None:
        """
        Raises:
            OSError: not on disk; this process still knows it.
        """
        async with self._writing:
            if self._appended >= _LINES:
                await asyncio.to_thread(self._rewrite, self._live())
            else:
                await asyncio.to_thread(self._append, ending)

    def _take(self, line: bytes) -> None:
        try:
            ending = msgspec.json.decode(line, type=Ending)
        except msgspec.DecodeError as error:
            _log.warning("unreadable line skipped", file=str(self._path), error=str(error))
            return
        self._ended[ending.instance_id] = ending

    def _is_live(self, ending: Ending) -> bool:
        return self._now() - ending.at < KEPT_FOR

    def _forget_the_old(self) -> None:
        while self._ended:
            oldest = next(iter(self._ended))
            if self._is_live(self._ended[oldest]):
                return
            del self._ended[oldest]

    def _live(self) -> list[Ending]:
        self._ended = {key: ending for key, ending in self._ended.items() if self._is_live(ending)}
        return list(self._ended.values())

    def _append(self, ending: Ending) -> None:
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(ending) + b"\n")
            file.flush()
            os.fdatasync(file.fileno())
        self._appended += 1

    def _rewrite(self, live: list[Ending]) -> None:
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.writelines(msgspec.json.encode(ending) + b"\n" for ending in live)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._appended = 0
