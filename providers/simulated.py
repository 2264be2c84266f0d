"""A provider whose machines are records: for tests and for trying out a coordinator without a hypervisor.

Given a directory, its machines outlive the process as real ones do. Faults can be switched on while it runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated
from weakref import WeakValueDictionary

import msgspec
import structlog

from hostler.config import check, check_key, device_name
from providers.contract import (
    DeviceUnavailable,
    Driver,
    HypervisorUnavailable,
    ImageUnavailable,
    InstanceSpec,
    Machine,
    MachineState,
    Phase,
    ProviderError,
    Report,
)

Guest = Callable[[InstanceSpec], Awaitable[None]]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]

_log = structlog.get_logger(__name__)


class SimulatedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `[simulated]` table of the agent's configuration."""

    images: tuple[str, ...] = ("simulated",)
    disk_seconds: Seconds = 0.05
    start_seconds: Seconds = 0.5
    devices: dict[str, int] = {}  # that the host seems to have, by the name of their kind

    def __post_init__(self) -> None:
        check(bool(self.images) and all(self.images), "images: name at least one image, none of them empty")
        for name, count in self.devices.items():
            check_key("devices", partial(device_name, name))
            check(0 <= count <= 64, f"devices: of '{name}' there may be 0 to 64, not {count}")


class Faults:
    """What goes wrong. Numbers count down with each use; 0: nothing does."""

    def __init__(self) -> None:
        self.creates_failing = 0
        self.creates_hanging = 0  # until cancelled
        self.create_answers_lost = 0  # the machine runs, but create ends in an error
        self.machines_dying = 0  # right after their start
        self.deletes_failing = 0
        self.inventories_failing = 0

    def take(self, name: str) -> bool:
        left: int = getattr(self, name)
        setattr(self, name, max(0, left - 1))
        return left > 0


class _Record(msgspec.Struct, frozen=True):
    machine: Machine
    devices: dict[str, int] = {}
    console: bytes = b""


class SimulatedProvider:
    """Implements `HostProvider`. `on_start` plays each machine's guest; what it raises kills the machine."""

    def __init__(
        self,
        settings: SimulatedSettings | None = None,
        *,
        directory: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_start: Guest | None = None,
        name: str = "simulated",
    ) -> None:
        """`name`: of its driver."""
        self._name = name
        self.settings = settings or SimulatedSettings()
        self.images = list(self.settings.images)
        self.faults = Faults()
        self.create_calls: list[InstanceSpec] = []
        self.delete_calls: list[str] = []
        self._directory = directory
        self._now = now
        self._sleep = sleep
        self._on_start = on_start
        self._records: dict[str, _Record] = {}
        self._guests: dict[str, asyncio.Task[None]] = {}
        self._on_stopped: Callable[[str], None] = lambda _: None
        self.on_lost: Callable[[str], None] = lambda _: None
        self.away = ""
        self._saving = asyncio.Lock()
        self._order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def drivers(self) -> list[Driver]:
        return [Driver(self._name, "none", tuple(self.images), fetches=True, passes_devices=True)]

    @property
    def devices(self) -> dict[str, int]:
        return self.settings.devices

    async def open(self, on_stopped: Callable[[str], None]) -> None:
        self._check_there()
        self._on_stopped = on_stopped
        if self._directory is not None:
            self._records = await asyncio.to_thread(_read_all, self._directory)

    async def close(self) -> None:
        guests = list(self._guests.values())
        for guest in guests:
            guest.cancel()
        await asyncio.gather(*guests, return_exceptions=True)
        self._on_stopped = lambda _: None

    async def create(self, spec: InstanceSpec, report: Report) -> Machine:
        self.create_calls.append(spec)
        self._check_there()
        async with self._lock(spec.instance_id):
            there = self._records.get(spec.instance_id)
            if there is not None and there.machine.state is not MachineState.CREATING:
                return there.machine
            self._check(spec)
            return await self._make(spec, report)

    async def delete(self, instance_id: str) -> None:
        self.delete_calls.append(instance_id)
        self._check_there()
        async with self._lock(instance_id):
            if self.faults.take("deletes_failing"):
                raise ProviderError("simulated: the delete fails")
            guest = self._guests.pop(instance_id, None)
            if guest is not None:
                guest.cancel()
                await asyncio.gather(guest, return_exceptions=True)
            await self._drop(instance_id)

    async def inventory(self) -> list[Machine]:
        self._check_there()
        if self.faults.take("inventories_failing"):
            raise ProviderError("simulated: the inventory fails")
        return [record.machine for record in self._records.values()]

    async def console(self, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]:
        record = self._records.get(instance_id)
        whole = record.console if record else b""
        return whole[-limit_bytes:], len(whole) > limit_bytes

    def go_away(self, reason: str) -> None:
        """As a daemon that ends: its machines live on."""
        self.away = reason
        self.on_lost(reason)

    def come_back(self) -> None:
        self.away = ""

    def _check_there(self) -> None:
        if self.away:
            raise HypervisorUnavailable(self.away)

    async def power_off(self, instance_id: str) -> None:
        """The machine stops as by its own power-off, and its owner is told."""
        record = self._records.get(instance_id)
        if record is None or record.machine.state is not MachineState.RUNNING:
            return
        phases = record.machine.phases | {Phase.STOPPED: self._now()}
        await self._put(
            msgspec.structs.replace(record.machine, state=MachineState.STOPPED, phases=phases), record.console
        )
        self._on_stopped(instance_id)

    async def write_console(self, instance_id: str, data: bytes) -> None:
        record = self._records.get(instance_id)
        if record is not None:
            await self._put(record.machine, record.console + data)

    def _lock(self, instance_id: str) -> asyncio.Lock:
        return self._order.setdefault(instance_id, asyncio.Lock())

    def _check(self, spec: InstanceSpec) -> None:
        if spec.base is None and spec.image not in self.images:
            raise ImageUnavailable(f"no image '{spec.image}' here", hint=f"this host has {', '.join(self.images)}")
        others = (record.machine for record in self._records.values())
        if any(other.name == spec.name and other.instance_id != spec.instance_id for other in others):
            raise ProviderError(f"simulated: a machine '{spec.name}' already exists")
        for name, wanted in spec.resources.devices.items():
            held = [one for one in self._records.values() if one.machine.instance_id != spec.instance_id]
            free = self.devices.get(name, 0) - sum(one.devices.get(name, 0) for one in held)
            if wanted > free:
                raise DeviceUnavailable(f"simulated: {wanted} {name} wanted, {free} free")

    async def _make(self, spec: InstanceSpec, report: Report) -> Machine:
        machine = Machine(spec.instance_id, spec.generation, spec.name, MachineState.CREATING)
        self._records[spec.instance_id] = _Record(machine, spec.resources.devices)
        await self._save(spec.instance_id)
        await self._reach(spec.instance_id, Phase.ACCEPTED, report)
        if spec.base is not None and self._directory is not None:
            await asyncio.to_thread(_hold, spec.base.path, self._directory / f"{spec.instance_id}.base")
        await self._sleep(self.settings.disk_seconds)
        if self.faults.take("creates_hanging"):
            await asyncio.Event().wait()
        if self.faults.take("creates_failing"):
            await self._drop(spec.instance_id)
            raise ProviderError("simulated: the create fails")
        await self._reach(spec.instance_id, Phase.DISK, report)
        await self._sleep(self.settings.start_seconds)
        await self.write_console(spec.instance_id, f"{spec.name}: started\n".encode())
        await self._reach(spec.instance_id, Phase.STARTED, report, MachineState.RUNNING)
        return await self._started(spec)

    async def _started(self, spec: InstanceSpec) -> Machine:
        if self._on_start is not None:
            self._guests[spec.instance_id] = asyncio.create_task(
                self._play(self._on_start, spec), name=f"guest {spec.name}"
            )
        if self.faults.take("machines_dying"):
            await self.power_off(spec.instance_id)
        if self.faults.take("create_answers_lost"):
            raise ProviderError("simulated: the answer is lost")
        return self._records[spec.instance_id].machine

    async def _play(self, guest: Guest, spec: InstanceSpec) -> None:
        try:
            await guest(spec)
        except Exception as error:  # noqa: BLE001 - whatever a guest raises is its machine's death; logged
            _log.warning("guest died", instance=spec.instance_id, error=str(error), exc_info=error)
            await self.power_off(spec.instance_id)

    async def _reach(
        self, instance_id: str, phase: Phase, report: Report, state: MachineState = MachineState.CREATING
    ) -> None:
        record = self._records[instance_id]
        phases = record.machine.phases | {phase: self._now()}
        await self._put(msgspec.structs.replace(record.machine, state=state, phases=phases), record.console)
        report(phase)

    async def _put(self, machine: Machine, console: bytes = b"") -> None:
        held = self._records[machine.instance_id].devices
        self._records[machine.instance_id] = _Record(machine, held, console)
        await self._save(machine.instance_id)

    async def _drop(self, instance_id: str) -> None:
        self._records.pop(instance_id, None)
        await self._save(instance_id)

    async def _save(self, instance_id: str) -> None:
        """Bring the directory to what is known now, which may be newer than what the caller changed."""
        if self._directory is not None:
            async with self._saving:
                path = self._directory / f"{instance_id}.json"
                await asyncio.to_thread(_write, path, self._records.get(instance_id))


def _write(path: Path, record: _Record | None) -> None:
    if record is None:
        path.unlink(missing_ok=True)
        path.with_suffix(".base").unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(record))
    fresh.replace(path)


def _hold(base: Path, link: Path) -> None:
    """As a real machine does: its image cannot go while there is a link to it."""
    link.unlink(missing_ok=True)
    link.hardlink_to(base)


def _read_all(directory: Path) -> dict[str, _Record]:
    records = [msgspec.json.decode(path.read_bytes(), type=_Record) for path in sorted(directory.glob("*.json"))]
    return {record.machine.instance_id: record for record in records}
