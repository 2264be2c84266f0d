"""Which provider has each instance, and how it last was: what can still be said of a provider that does not answer."""

import asyncio
from collections.abc import Collection
from pathlib import Path

import msgspec
import structlog

from providers.contract import Machine, MachineState, ProviderError

_log = structlog.get_logger(__name__)


class Record(msgspec.Struct, frozen=True):
    provider: str
    machine: Machine


class Records:
    """A file an instance in a directory of the agent's own, written before its provider is asked for it.

    Not synced: a file that the host's own end swallows is made anew from its provider's inventory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, Record] = {}
        self._writing = asyncio.Lock()

    def load(self) -> None:
        """Blocks; called once, before anything else.

        Raises:
            ProviderError: the directory cannot be used.
        """
        try:
            for path in sorted(self._directory.glob("*.json")):
                self._take(path)
        except OSError as error:
            raise ProviderError(f"{self._directory}: {error.strerror or error}", hint="see data_dir") from error

    def get(self, instance_id: str) -> Record | None:
        return self._known.get(instance_id)

    def of(self, provider: str) -> dict[str, Machine]:
        """By instance id, what it has as far as is known here."""
        return {key: record.machine for key, record in self._known.items() if record.provider == provider}

    async def put(self, record: Record) -> None:
        """
        Raises:
            ProviderError: it is not on disk, and not known either.
        """
        key = record.machine.instance_id
        before = self._known.get(key)
        self._known[key] = record
        try:
            await self._save(key)
        except OSError as error:
            if before is None:
                self._known.pop(key, None)
            raise ProviderError(f"{self._directory}: {error.strerror or error}", hint="see the space left") from error

    async def drop(self, instance_id: str) -> None:
        if self._known.pop(instance_id, None) is not None:
            await self._save(instance_id)

    def see(self, machine: Machine) -> None:
        """Known from now on in this process; the provider itself keeps it for the next."""
        record = self._known.get(machine.instance_id)
        if record is not None:
            self._known[machine.instance_id] = Record(record.provider, machine)

    async def learn(self, provider: str, machines: Collection[Machine], settled: Collection[str]) -> None:
        """Take an inventory over. `settled`: what it would have named, were it still there."""
        seen = {machine.instance_id for machine in machines}
        for machine in machines:
            if machine.instance_id in self._known:
                self.see(machine)
            else:  # made before there were records, or its file is lost
                await self.put(Record(provider, machine))
        for instance_id in settled:
            if instance_id not in seen:
                await self.drop(instance_id)

    async def stopped(self, instance_id: str) -> None:
        record = self._known.get(instance_id)
        if record is not None:
            await self.put(Record(record.provider, msgspec.structs.replace(record.machine, state=MachineState.STOPPED)))

    def _take(self, path: Path) -> None:
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except msgspec.DecodeError as error:
            _log.warning("unreadable record skipped", file=str(path), error=str(error))
            return
        self._known[record.machine.instance_id] = record

    async def _save(self, instance_id: str) -> None:
        """Bring the file to what is known now, which may be newer than what the caller changed."""
        async with self._writing:
            path = self._directory / f"{instance_id}.json"
            await asyncio.to_thread(_write, path, self._known.get(instance_id))


def _write(path: Path, record: Record | None) -> None:
    if record is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(record))
    fresh.replace(path)
