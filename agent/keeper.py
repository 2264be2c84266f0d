"""Keeps this host's machines as commanded: one worker per instance, one thing at a time, until it is so."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import msgspec
import structlog

from agent.backoff import Backoff
from agent.decisions import Answer, on_create, on_delete
from agent.endings import Ending, Endings
from agent.guard import guarded
from agent.outbox import Outbox
from agent.slot import Slot
from hostler.errors import HostlerError
from providers.contract import HostProvider, InstanceSpec, Machine, MachineState, Phase, ProviderError, Report
from providers.images.store import ImageStore
from providers.images.values import ImageSource

CONSOLE_LIMIT_BYTES: Final = 1024**2
_CONSOLE_SECONDS: Final = 10.0
_DELETE_SECONDS: Final = 120.0

_log = structlog.get_logger(__name__)


class Keeper:
    """Carries out commands. They return at once; how it went is told through the outbox."""

    def __init__(
        self,
        provider: HostProvider,
        outbox: Outbox,
        endings: Endings,
        *,
        now: Callable[[], datetime],
        rng: random.Random,
        retry: Backoff,
        creates_at_once: int,
        create_grace_seconds: float = 30.0,
        images: ImageStore | None = None,
        refusal: Callable[[], HostlerError | None] = lambda: None,
        released: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            create_grace_seconds: how long a delete lets a create that is under way come to its own end.
            images: those of the catalogue; without it only the provider's own can be booted.
            refusal: why the host makes no new machine now.
            released: called when a machine is gone.
        """
        self._refusal = refusal
        self._released = released
        self._provider = provider
        self._outbox = outbox
        self._endings = endings
        self._now = now
        self._rng = rng
        self._retry = retry
        self._creates = asyncio.Semaphore(creates_at_once)
        self._create_grace_seconds = create_grace_seconds
        self._images = images
        self._slots: dict[str, Slot] = {}
        self._adopted = False
        self._stopped_before_adoption: set[str] = set()

    async def adopt(self) -> None:
        """Take on what an earlier process left, and go on with the deletes that it had begun.

        Raises:
            ProviderError: the inventory cannot be had.
        """
        for machine in await self._provider.inventory():
            slot = Slot(machine.instance_id, machine.generation, machine.name)
            slot.exists = True
            slot.interrupted = machine.state is MachineState.CREATING
            slot.phases = dict(machine.phases)
            self._slots[machine.instance_id] = slot
            _log.info("adopted", instance=machine.instance_id, name=machine.name, state=machine.state)
            ended = self._endings.get(machine.instance_id)
            if ended is not None and ended.generation >= machine.generation:
                self._owe_removal(slot, ended.generation)
        self._adopted = True
        for instance_id in self._stopped_before_adoption:
            self.stopped(instance_id)

    def create(self, spec: InstanceSpec) -> None:
        slot = self._slots.get(spec.instance_id)
        ended = self._endings.get(spec.instance_id)
        answer = on_create(spec.generation, held=slot.held if slot else None, ended=ended)
        _log.info("create", instance=spec.instance_id, generation=spec.generation, answer=answer.name)
        if answer is Answer.REPEAT_PHASES and slot is not None:
            slot.generation = max(slot.generation, spec.generation)
            self._repeat_phases(slot)
        elif answer is Answer.REPEAT_FAILURE and ended is not None:
            self._say_failed(ended)
        elif answer is Answer.BEGIN and slot is None and (refusal := self._refusal()) is not None:
            self._refuse(spec, refusal)
        elif answer is Answer.BEGIN:
            slot = self._slots.setdefault(spec.instance_id, Slot(spec.instance_id, spec.generation, spec.name))
            slot.generation, slot.name, slot.to_make = spec.generation, spec.name, spec
            self._start_worker(slot)

    def _refuse(self, spec: InstanceSpec, refusal: HostlerError) -> None:
        """Say that nothing was made, and again when asked again: a repeated command must not make it after all."""
        _log.warning("create refused", instance=spec.instance_id, error=str(refusal))
        detail, code = str(refusal), refusal.code
        ending = Ending(spec.instance_id, spec.generation, Phase.FAILED, self._now(), detail, code)
        self._endings.remember(ending)
        self._say_failed(ending)

    def delete(self, instance_id: str, generation: int) -> None:
        slot = self._slots.get(instance_id)
        answer = on_delete(generation, held=slot.held if slot else None, ended=self._endings.get(instance_id))
        _log.info("delete", instance=instance_id, generation=generation, answer=answer.name)
        if answer is not Answer.IGNORE:
            slot = self._slots.setdefault(instance_id, Slot(instance_id, generation, ""))
            self._owe_removal(slot, generation)

    def prefetch(self, source: ImageSource) -> None:
        if self._images is not None:
            self._images.prefetch(source)

    def stopped(self, instance_id: str) -> None:
        """A machine powered itself off or died."""
        slot = self._slots.get(instance_id)
        if slot is None:
            if not self._adopted:
                self._stopped_before_adoption.add(instance_id)
        elif slot.to_make is not None:
            slot.stopped_early = True  # told after STARTED, not before
        elif slot.removal is None:
            self._reached(slot, Phase.STOPPED)

    async def inventory(self) -> list[Machine]:
        """What the provider holds and what is on its way to it.

        Raises:
            ProviderError: it cannot be had; nothing may be concluded then.
        """
        settled = [slot for slot in self._slots.values() if slot.worker is None]
        machines = {machine.instance_id: machine for machine in await self._provider.inventory()}
        for slot in settled:
            known = slot.worker is None and self._slots.get(slot.instance_id) is slot
            if known and slot.instance_id not in machines:
                _log.warning("machine vanished", instance=slot.instance_id, name=slot.name)
                del self._slots[slot.instance_id]
        return [self._seen(machine) for machine in machines.values()] + [
            Machine(slot.instance_id, slot.generation, slot.name, MachineState.CREATING, dict(slot.phases))
            for slot in self._slots.values()
            if slot.to_make is not None and slot.instance_id not in machines
        ]

    async def close(self, grace_seconds: float) -> None:
        """Let what is under way end, for a while; machines keep running."""
        workers = {slot.worker for slot in self._slots.values() if slot.worker is not None}
        if workers:
            _, late = await asyncio.wait(workers, timeout=grace_seconds)
            for worker in late:
                worker.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _seen(self, machine: Machine) -> Machine:
        slot = self._slots.get(machine.instance_id)
        generation = max(machine.generation, slot.generation) if slot else machine.generation
        return Machine(machine.instance_id, generation, machine.name, machine.state, machine.phases)

    def _owe_removal(self, slot: Slot, generation: int) -> None:
        slot.generation = max(slot.generation, generation)
        slot.removal = slot.generation
        slot.to_make = None
        # In memory at once: a create that comes now must already see it.
        self._endings.remember(Ending(slot.instance_id, slot.removal, Phase.DELETED, self._now()))
        slot.changed.set()
        self._start_worker(slot)

    def _start_worker(self, slot: Slot) -> None:
        if slot.worker is None:
            slot.worker = asyncio.create_task(self._work(slot), name=f"instance {slot.instance_id}")

    async def _work(self, slot: Slot) -> None:
        try:
            while slot.removal is not None or slot.to_make is not None:
                if slot.removal is not None:
                    await self._remove(slot)
                elif slot.to_make is not None:
                    await self._make(slot, slot.to_make)
        except Exception:  # noqa: BLE001 - the worker's edge; logged
            _log.exception("worker failed; the next command tries anew", instance=slot.instance_id)
            slot.to_make, slot.removal, slot.interrupted = None, None, True
        finally:
            slot.worker = None
            if not slot.exists and not slot.interrupted:
                self._slots.pop(slot.instance_id, None)

    async def _make(self, slot: Slot, spec: InstanceSpec) -> None:
        slot.phases, slot.interrupted, slot.stopped_early, slot.console_taken = {}, False, False, False
        slot.changed.clear()
        creating = asyncio.create_task(self._create(slot, spec), name=f"create {slot.instance_id}")
        try:
            await self._until_made_or_unwanted(slot, creating)
        except asyncio.CancelledError:
            creating.cancel()
            await asyncio.wait({creating})
            raise
        slot.exists = True  # as far as one can tell: proven below
        error = ProviderError("the provider gave the create up") if creating.cancelled() else creating.exception()
        if slot.to_make is not spec:
            return  # a delete came meanwhile; it sweeps up whatever there is
        if error is None:
            self._made(slot, creating.result())
        elif isinstance(error, HostlerError):
            await self._clear_failed(slot, error)
        else:
            raise error

    async def _create(self, slot: Slot, spec: InstanceSpec) -> Machine:
        async with self._based(slot, spec) as based, self._creates:
            slot.making = True
            try:
                return await guarded("create", self._provider.create(based, self._reporter(slot, spec)), seconds=None)
            finally:
                slot.making = False

    @asynccontextmanager
    async def _based(self, slot: Slot, spec: InstanceSpec) -> AsyncIterator[InstanceSpec]:
        """The spec with its image, which may have to be fetched first: for as long as that takes, others go before."""
        if spec.source is None or self._images is None:
            yield spec
            return

        def fetching() -> None:
            self._reached(slot, Phase.ACCEPTED)
            self._reached(slot, Phase.FETCHING)

        async with self._images.lease(spec.source, fetching) as base:
            if Phase.FETCHING in slot.phases:
                self._reached(slot, Phase.IMAGE)
            yield msgspec.structs.replace(spec, base=base)

    def _reporter(self, slot: Slot, spec: InstanceSpec) -> Report:
        def report(phase: Phase) -> None:
            if slot.making and slot.to_make is spec:
                self._reached(slot, phase)

        return report

    async def _until_made_or_unwanted(self, slot: Slot, creating: asyncio.Task[Machine]) -> None:
        """A create still in the queue is given up at once; one under way may end by itself, for it then leaves less."""
        unwanted = asyncio.create_task(slot.changed.wait())
        try:
            await asyncio.wait({creating, unwanted}, return_when=asyncio.FIRST_COMPLETED)
            if slot.making:
                await asyncio.wait({creating}, timeout=self._create_grace_seconds)
            if not creating.done():
                creating.cancel()
                await asyncio.wait({creating})
        finally:
            unwanted.cancel()

    def _made(self, slot: Slot, machine: Machine) -> None:
        slot.to_make = None
        # A machine that was there already reports nothing; its phases are told from its record.
        for phase in (Phase.ACCEPTED, Phase.DISK, Phase.STARTED, Phase.STOPPED):
            if phase in machine.phases and phase not in slot.phases:
                self._reached(slot, phase, machine.phases[phase])
        if slot.stopped_early:
            self._reached(slot, Phase.STOPPED)

    async def _clear_failed(self, slot: Slot, error: HostlerError) -> None:
        """Make sure that nothing is left before saying so; what resists is then removed as by a delete."""
        _log.warning("create failed", instance=slot.instance_id, error=str(error))
        detail, left = str(error), False
        try:
            await guarded("delete", self._provider.delete(slot.instance_id), seconds=_DELETE_SECONDS)
        except HostlerError as second:
            _log.warning("clearing failed", instance=slot.instance_id, error=str(second))
            detail, left = f"{detail}; clearing up failed too and is tried again: {second}", True
        if slot.removal is not None:
            return  # a delete came meanwhile
        ending = Ending(slot.instance_id, slot.generation, Phase.FAILED, self._now(), detail, error.code)
        self._endings.remember(ending)
        await self._persist(ending)
        if self._endings.get(slot.instance_id) is not ending:
            return  # a delete came in that moment
        slot.exists, slot.to_make = left, None
        self._say_failed(ending)
        if left:
            self._owe_removal(slot, slot.generation)

    async def _remove(self, slot: Slot) -> None:
        """Try until it is gone. A repeated delete cuts the wait short."""
        written = await self._persist(self._endings.get(slot.instance_id))
        attempt = 0
        while True:
            slot.changed.clear()
            try:
                await self._take_console(slot)
                await guarded("delete", self._provider.delete(slot.instance_id), seconds=_DELETE_SECONDS)
            except HostlerError as error:
                self._say_delete_failed(slot, error, attempt)
                await self._wait_for_retry(slot, attempt)
                attempt += 1
            else:
                break
        while written != (latest := self._endings.get(slot.instance_id)):  # a newer delete came meanwhile
            written = await self._persist(latest)
        slot.exists, slot.interrupted, slot.phases = False, False, {}
        generation, slot.removal = slot.removal or slot.generation, None
        _log.info("deleted", instance=slot.instance_id, name=slot.name)
        self._outbox.add_event(slot.instance_id, generation, Phase.DELETED, self._now())
        self._released()

    async def _wait_for_retry(self, slot: Slot, attempt: int) -> None:
        try:
            async with asyncio.timeout(self._retry.delay(attempt, self._rng)):
                await slot.changed.wait()
        except TimeoutError:
            return

    async def _take_console(self, slot: Slot) -> None:
        """Queue the end of the console. A machine without one is deleted all the same."""
        if slot.console_taken:
            return
        slot.console_taken = True
        try:
            data, truncated = await guarded(
                "console", self._provider.console(slot.instance_id, CONSOLE_LIMIT_BYTES), seconds=_CONSOLE_SECONDS
            )
        except HostlerError as error:
            _log.warning("console lost", instance=slot.instance_id, error=str(error))
            return
        if data:
            self._outbox.add_console(slot.instance_id, data, truncated=truncated)

    async def _persist(self, ending: Ending | None) -> Ending | None:
        """A full disk must not keep a machine from being deleted, which would free it."""
        try:
            if ending is not None:
                await self._endings.persist(ending)
        except OSError as error:
            _log.error("ending not on disk: kept in memory only", error=str(error))
        return ending

    def _reached(self, slot: Slot, phase: Phase, at: datetime | None = None) -> None:
        if phase in slot.phases:
            return
        slot.phases[phase] = at or self._now()
        _log.info("phase", instance=slot.instance_id, name=slot.name, phase=phase)
        self._outbox.add_event(slot.instance_id, slot.generation, phase, slot.phases[phase])

    def _repeat_phases(self, slot: Slot) -> None:
        if slot.removal is None:
            for phase, at in slot.phases.items():
                self._outbox.add_event(slot.instance_id, slot.generation, phase, at)

    def _say_failed(self, ending: Ending) -> None:
        self._outbox.add_event(
            ending.instance_id,
            ending.generation,
            Phase.FAILED,
            ending.at,
            detail=ending.detail,
            error_code=ending.error_code,
        )

    def _say_delete_failed(self, slot: Slot, error: HostlerError, attempt: int) -> None:
        _log.warning("delete failed", instance=slot.instance_id, attempt=attempt, error=str(error))
        self._outbox.add_event(
            slot.instance_id,
            slot.removal or slot.generation,
            Phase.DELETE_FAILED,
            self._now(),
            detail=str(error),
            error_code=error.code,
        )
