"""The state file: where a client finds addresses and secrets, and from where a restarted simulator goes on."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.forge_simulator.errors import SimulatorError
from tests.forge_simulator.records import Snapshot


class StateFile:
    """Writes snapshots one after the other; changes that come while one is written share the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._take: Callable[[], Snapshot] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def read(self) -> Snapshot | None:
        try:
            raw = await asyncio.to_thread(self._path.read_bytes)
            return msgspec.json.decode(raw, type=Snapshot)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise SimulatorError(f"{self._path} is no state file of the simulator ({error}): remove it") from error

    def write_soon(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def written(self) -> None:
        """Wait until the file says all that was to be written so far."""
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        while self._take is not None:
            snapshot, self._take = self._take(), None
            await asyncio.to_thread(self._replace, msgspec.json.encode(snapshot))

    def _replace(self, raw: bytes) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        # Tokens and webhook secrets are in it.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(raw)
        fresh.replace(self._path)
