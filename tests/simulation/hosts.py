"""Hosts of the farm: the agent's simulated provider with guests that outlive it, and machines of other processes."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from coordinator.config import CoordinatorConfig
from coordinator.runner_api import scripts
from coordinator.store.store import open_store
from coordinator.tokens import InstanceTokens
from providers.contract import InstanceSpec, Machine
from providers.simulated import SimulatedProvider, SimulatedSettings
from tests.simulation.guests import Boot, Guests


class FarmProvider(SimulatedProvider):
    """Simulated machines whose guests go on when their agent ends. Counts how many there were at once."""

    def __init__(
        self,
        settings: SimulatedSettings,
        directory: Path,
        guests: Guests,
        on_host: "OnHost",
        name: str = "simulated",
    ) -> None:
        super().__init__(settings, directory=directory, on_start=self._boot, name=name)
        self.most_at_once = 0
        self.inventories = 0  # the agent looks before each try to connect
        self._guests_of_farm = guests
        self._on_host = on_host

    async def _put(self, machine: Machine, console: bytes = b"") -> None:
        await super()._put(machine, console)
        self.most_at_once = max(self.most_at_once, len(self._records))

    async def inventory(self) -> list[Machine]:
        self.inventories += 1
        return await super().inventory()

    async def delete(self, instance_id: str) -> None:
        record = self._records.get(instance_id)
        await super().delete(instance_id)
        if record is not None:
            self._guests_of_farm.end(record.machine.name)

    async def die(self, name: str) -> None:
        """The machine of that name crashes."""
        self._guests_of_farm.end(name)
        await self.power_off(next(r.machine.instance_id for r in self._records.values() if r.machine.name == name))

    async def _boot(self, spec: InstanceSpec) -> None:
        told = spec.bootstrap
        boot = Boot(spec.name, told.metadata_url, told.callback_url, told.token)

        async def power_off() -> None:
            await self._on_host().power_off(spec.instance_id)

        self._guests_of_farm.boot(boot, power_off)


OnHost = Callable[[], SimulatedProvider]
"""The provider of the agent that now runs on a host: a machine outlives the agent that made it."""


class Cloud:
    """The directory of the provider executable `file-cloud`, with its machines' guests."""

    def __init__(self, directory: Path, guests: Guests) -> None:
        self.directory = directory
        self._guests = guests
        self._seen: set[str] = set()

    def machines(self) -> list[str]:
        return sorted(path.stem for path in self.directory.glob("*.json"))

    def calls(self, command: str) -> list[str]:
        log = self.directory / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(command)]

    async def watch(self) -> None:
        """Boot what appears, end what is gone. Files are all there is to see of it."""
        while True:
            there = set(self.machines())
            for name in sorted(there - self._seen):
                self._boot(self.directory / f"{name}.json")
            for name in self._seen - there:
                self._guests.end(name)
            self._seen = there
            await asyncio.sleep(0.02)

    def _boot(self, path: Path) -> None:
        told = json.loads(path.read_text())["bootstrap"]

        async def power_off() -> None:
            return  # a stopped cloud instance tells nobody

        boot = Boot(told["name"], told["metadata-url"], told["callback-url"], told["instance-token"])
        self._guests.boot(boot, power_off)


class ProcessHost:
    """The machines of an agent that is a process: they are files. Their guests' tokens are made with the real key."""

    def __init__(self, directory: Path, guests: Guests, config: CoordinatorConfig, now: Callable[[], datetime]) -> None:
        self.directory = directory
        self._guests = guests
        self._config = config
        self._now = now
        self._seen: dict[str, str] = {}  # file name to machine name

    def machines(self) -> list[str]:
        return sorted(path.stem for path in self.directory.glob("*.json"))

    async def watch(self) -> None:
        while True:
            there = {path.stem: path for path in self.directory.glob("*.json")}
            for instance_id in there.keys() - self._seen.keys():
                await self._boot(instance_id, there[instance_id])
            for instance_id in self._seen.keys() - there.keys():
                self._guests.end(self._seen.pop(instance_id))
            await asyncio.sleep(0.02)

    async def _boot(self, instance_id: str, path: Path) -> None:
        try:
            machine = json.loads(await asyncio.to_thread(path.read_text))["machine"]
        except FileNotFoundError:
            return
        if machine["state"] != "running":
            return
        token = await self._token(instance_id)
        self._seen[instance_id] = machine["name"]

        async def power_off() -> None:
            return  # the end of the job ends it

        where = scripts.urls(self._config.http.machines_call)
        self._guests.boot(Boot(machine["name"], where.metadata, where.callback, token), power_off)

    async def _token(self, instance_id: str) -> str:
        store = await open_store(
            self._config.database_url,
            Path(self._config.data_dir),
            clock=self._now,
            new_id=lambda: instance_id,
            chance=lambda: 0.0,
        )
        try:
            instance = await store.instances.get(instance_id)
            assert instance is not None
            access = await store.catalog.forge_access(instance.entity_id)
            return InstanceTokens(store.instance_token_key, self._now).mint(instance, access.entity)
        finally:
            await store.close()
