"""Several providers as one: each instance goes to its own, and one that is away leaves the others alone."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import ClassVar, Final

import structlog

from agent.backoff import Backoff
from agent.guard import guarded
from agent.held import Record, Records
from hostler.errors import HostlerError
from providers.contract import (
    Driver,
    HostProvider,
    HypervisorUnavailable,
    InstanceSpec,
    Machine,
    MachineState,
    ProviderError,
    Report,
)

RETRY: Final = Backoff(first_seconds=1.0, most_seconds=15.0)
_OPEN_SECONDS: Final = 60.0  # after which an agent goes on with those that are open
_ANSWER_SECONDS: Final = 20.0

_log = structlog.get_logger(__name__)


class DriverOut(ProviderError):
    """A driver of this host cannot be used now; others may. What was begun by it is undone when it is back."""

    code: ClassVar[str] = "driver_out"


class Part:
    """One provider of several. `drivers` are all that it may offer, known also while it is away."""

    def __init__(self, name: str, provider: HostProvider, drivers: Collection[str]) -> None:
        self.name = name
        self.provider = provider
        self.names = tuple(drivers)
        self.out = "it is not open yet"  # why it cannot be used; empty when it can
        self.opened = False
        self.asked: asyncio.Task[list[Machine]] | None = None
        self.returning: asyncio.Task[None] | None = None

    def refuse(self) -> None:
        """
        Raises:
            DriverOut: it cannot be used now.
        """
        if self.out:
            raise DriverOut(f"{self.name} cannot be used now: {self.out}", hint="it is tried again by itself")


class Several:
    """Implements `HostProvider`. `on_change` is called when a driver goes out or comes back."""

    def __init__(
        self,
        parts: Sequence[Part],
        records: Records,
        *,
        rng: random.Random | None = None,
        retry: Backoff = RETRY,
        open_seconds: float = _OPEN_SECONDS,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self._parts = {part.name: part for part in parts}
        for part in parts:
            part.provider.on_lost = partial(self._lost, part)
        self._records = records
        self._rng = rng or random.SystemRandom()
        self._retry = retry
        self._open_seconds = open_seconds
        self._answer_seconds = answer_seconds
        self._making: set[str] = set()
        self._noting: set[asyncio.Task[None]] = set()
        self._on_stopped: Callable[[str], None] = lambda _: None
        self.on_change: Callable[[], None] = lambda: None
        self.on_lost: Callable[[str], None] = lambda _: None  # never: it is never lost as a whole

    @property
    def drivers(self) -> list[Driver]:
        return [driver for part in self._parts.values() if not part.out for driver in part.provider.drivers]

    @property
    def devices(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for part in self._parts.values():
            counts.update(part.provider.devices)
        return dict(counts)

    @property
    def out(self) -> dict[str, str]:
        """Drivers that cannot be used now, and why."""
        return {name: part.out for part in self._parts.values() if part.out for name in part.names}

    async def open(self, on_stopped: Callable[[str], None]) -> None:
        """Open all, and go on with those that could be; the others are tried again for as long as this is open.

        Raises:
            ProviderError: none could be opened.
        """
        self._on_stopped = on_stopped
        await asyncio.to_thread(self._records.load)
        tries = {part.name: asyncio.create_task(self._comes(part)) for part in self._parts.values()}
        try:
            await asyncio.wait(tries.values(), timeout=self._open_seconds)
            if not any(task.done() and task.result() for task in tries.values()):
                await asyncio.wait(tries.values())
        except BaseException:
            for task in tries.values():
                task.cancel()
            await asyncio.gather(*tries.values(), return_exceptions=True)
            await self.close()
            raise
        for part in self._parts.values():
            trying = tries[part.name]
            if not (trying.done() and trying.result()):
                self._bring_back(part, trying)
        if all(part.out for part in self._parts.values()):
            reasons = "; ".join(f"{part.name}: {part.out}" for part in self._parts.values())
            await self.close()
            raise HypervisorUnavailable(reasons, hint="an agent needs one of its providers at least")

    async def close(self) -> None:
        """Machines keep running."""
        tasks = [part.returning for part in self._parts.values() if part.returning is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._noting, return_exceptions=True)
        for part in self._parts.values():
            part.returning = None
            if part.asked is not None:
                await asyncio.wait({part.asked})
            if part.opened:
                await part.provider.close()
                part.opened = False

    async def create(self, spec: InstanceSpec, report: Report) -> Machine:
        part = self._part_of(spec)
        part.refuse()
        self._making.add(spec.instance_id)
        try:
            if self._records.get(spec.instance_id) is None:
                begun = Machine(spec.instance_id, spec.generation, spec.name, MachineState.CREATING)
                await self._records.put(Record(part.name, begun))
            with self._watched(part):
                machine = await part.provider.create(spec, report)
            await self._records.put(Record(part.name, machine))
        finally:
            self._making.discard(spec.instance_id)
        return machine

    async def delete(self, instance_id: str) -> None:
        """What nobody has a record of may be with any of them. One that is away and had it tells when it is back."""
        record = self._records.get(instance_id)
        parts = self._parts.values() if record is None else [self._parts[record.provider]]
        for part in parts:
            if record is None and part.out:
                continue
            part.refuse()
            with self._watched(part):
                await part.provider.delete(instance_id)
        await self._records.drop(instance_id)

    async def inventory(self) -> list[Machine]:
        """All there is, and of a provider that does not answer what it last had: it is not gone because of that."""
        found = await asyncio.gather(*(self._held_by(part) for part in self._parts.values()))
        return [machine for machines in found for machine in machines]

    async def console(self, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]:
        record = self._records.get(instance_id)
        if record is None:
            return b"", False
        part = self._parts[record.provider]
        part.refuse()
        with self._watched(part):
            return await part.provider.console(instance_id, limit_bytes)

    def _part_of(self, spec: InstanceSpec) -> Part:
        record = self._records.get(spec.instance_id)
        if record is not None:
            return self._parts[record.provider]
        for part in self._parts.values():
            if spec.driver in part.names:
                return part
        raise ProviderError(f"this host has no driver '{spec.driver}'", hint="change the pool's provider")

    @contextmanager
    def _watched(self, part: Part) -> Iterator[None]:
        try:
            yield
        except HypervisorUnavailable as error:
            self._lost(part, str(error))
            raise DriverOut(f"{part.name}: {error}") from error

    async def _held_by(self, part: Part) -> Collection[Machine]:
        if part.out:
            return self._records.of(part.name).values()
        settled = self._records.of(part.name).keys() - self._making
        try:
            machines = await self._ask(part)
        except HostlerError as error:
            self._lost(part, str(error))
            return self._records.of(part.name).values()
        await self._records.learn(part.name, machines, settled - self._making)
        return machines

    async def _ask(self, part: Part) -> list[Machine]:
        """One that hangs is left to itself: its thread cannot be stopped, and is not joined by others."""
        if part.asked is not None and not part.asked.done():
            await asyncio.wait({part.asked}, timeout=self._answer_seconds)
        if part.asked is None or part.asked.done():
            part.asked = asyncio.create_task(guarded("inventory", part.provider.inventory(), seconds=None))
            await asyncio.wait({part.asked}, timeout=self._answer_seconds)
            if part.asked.done():
                return part.asked.result()
        raise ProviderError(f"{part.name} does not say what it holds", hint="see whether its daemon hangs")

    def _lost(self, part: Part, reason: str) -> None:
        if part.out:
            return
        _log.warning("driver out", provider=part.name, error=reason)
        part.out = reason
        self._bring_back(part)
        self.on_change()

    def _bring_back(self, part: Part, trying: "asyncio.Task[bool] | None" = None) -> None:
        part.returning = asyncio.create_task(self._return(part, trying), name=f"return of {part.name}")

    async def _return(self, part: Part, trying: "asyncio.Task[bool] | None") -> None:
        attempt = 0
        back = await trying if trying is not None else False
        while not back:
            await asyncio.sleep(self._retry.delay(attempt, self._rng))
            attempt += 1
            back = await self._comes(part)
        _log.info("driver back", provider=part.name)
        self.on_change()

    async def _comes(self, part: Part) -> bool:
        """Whether it can be used now, after another try."""
        try:
            if not part.opened:
                await guarded("open", part.provider.open(self._stopped), seconds=None)
                part.opened = True
            await self._ask(part)
        except HostlerError as error:
            if part.out != str(error):  # an outage of hours is told once
                _log.warning("driver still out", provider=part.name, error=str(error))
            part.out = str(error)
            return False
        part.out = ""
        return True

    def _stopped(self, instance_id: str) -> None:
        task = asyncio.create_task(self._note_stop(instance_id))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)
        self._on_stopped(instance_id)

    async def _note_stop(self, instance_id: str) -> None:
        try:
            await self._records.stopped(instance_id)
        except ProviderError as error:  # its provider knows it too
            _log.warning("end not recorded", instance=instance_id, error=str(error))
