"""The simulated provider for the conformance tests."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from providers.contract import InstanceSpec
from providers.simulated import SimulatedProvider, SimulatedSettings
from tests.providers.adapter import Adapter, Offers

_MANY = 1000
_SETTINGS = SimulatedSettings(images=("stays",), disk_seconds=0, start_seconds=0)


class Simulated(Adapter):
    offers = frozenset({Offers.EVENTS, Offers.PHASES, Offers.CONSOLE})
    console_text = b"guest says hello\n"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._provider = SimulatedProvider()

    async def open(self, on_stopped: Callable[[str], None] = lambda _: None) -> SimulatedProvider:
        await self._provider.close()
        self._provider = SimulatedProvider(_SETTINGS, directory=self._directory, on_start=self._guest)
        await self._provider.open(on_stopped)
        return self._provider

    async def close(self) -> None:
        await self._provider.close()

    def traces(self) -> list[str]:
        return sorted(path.name for path in self._directory.glob("*"))

    @asynccontextmanager
    async def no_space(self) -> AsyncIterator[None]:
        self._provider.faults.creates_failing = _MANY
        yield
        self._provider.faults.creates_failing = 0

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        faults = self._provider.faults
        faults.creates_failing = faults.deletes_failing = faults.inventories_failing = _MANY
        yield
        faults.creates_failing = faults.deletes_failing = faults.inventories_failing = 0

    @asynccontextmanager
    async def failing_halfway(self) -> AsyncIterator[InstanceSpec]:
        self._provider.faults.creates_failing = 1
        yield self.spec()

    async def end(self, instance_id: str) -> None:
        await self._provider.power_off(instance_id)

    async def _guest(self, spec: InstanceSpec) -> None:
        await self._provider.write_console(spec.instance_id, self.console_text)
