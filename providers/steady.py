"""What providers of real machines share: order per instance, undoing what was given up, ends that are told once.

A hypervisor (the connection) and its machines (the steps) are the provider's own; both block and run in threads.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar
from weakref import WeakValueDictionary

import structlog

from providers.contract import HypervisorUnavailable, InstanceSpec, Machine, Phase, ProviderError, Report

P = ParamSpec("P")
T = TypeVar("T")
Connection = TypeVar("Connection")
OfferedT_co = TypeVar("OfferedT_co", covariant=True)
TakenT_contra = TypeVar("TakenT_contra", contravariant=True)

_log = structlog.get_logger(__name__)

_KEPT_FREE: Final = 2  # threads, for deletes, ends and inventories


class Hypervisor(Protocol[OfferedT_co]):
    """A connection that comes back by itself."""

    async def call(self, job: Callable[Concatenate[OfferedT_co, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job with the connection in a thread.

        Raises:
            HypervisorUnavailable: the hypervisor is away.
            ProviderError: the job failed.
        """
        ...

    async def close(self) -> None: ...


class Machines(Protocol[TakenT_contra]):
    """What a provider does, without its concurrency: calls for one instance never overlap."""

    unfinished: set[str]  # failed creates whose traces could not be removed yet

    def create(self, conn: TakenT_contra, spec: InstanceSpec, report: Report, /) -> Machine: ...

    def clear(self, conn: TakenT_contra, instance_id: str, /) -> None:
        """Destroy whatever there is of an instance, and see that it is gone."""

    def undo(self, conn: TakenT_contra, instance_id: str, /) -> None:
        """As `clear`, but what cannot be removed now becomes `unfinished`."""

    def inventory(self, conn: TakenT_contra, /) -> list[Machine]: ...

    def note_end(self, conn: TakenT_contra, instance_id: str, /) -> bool:
        """Record that a started machine has ended; False when that was known, or is not so."""
        ...

    def ids(self, conn: TakenT_contra, /) -> list[str]:
        """Of all instances that may have to be looked at after an outage."""
        ...


class SteadyProvider(ABC, Generic[Connection]):
    """A provider's concurrency. Subclasses say how to connect, and what there is besides machines."""

    def __init__(self, hypervisor: Hypervisor[Connection], threads: int) -> None:
        """`hypervisor` tells `_ended` of each machine that ends, and awaits `_catch_up` after an outage.

        `threads`: how many jobs it runs at once. Creates, which may take long, never take all of them.
        """
        self._connection = hypervisor
        self._making = asyncio.Semaphore(threads - _KEPT_FREE)
        self._machines: Machines[Connection] | None = None
        self._on_stopped: Callable[[str], None] = lambda _instance_id: None
        self.on_lost: Callable[[str], None] = lambda _reason: None
        self._order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._noting: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def _prepare(self) -> Machines[Connection]:
        """Connect, prepare what machines need and adopt those that are there.

        Raises:
            ProviderError: the hypervisor cannot be used.
        """

    @abstractmethod
    async def _restore(self) -> None:
        """See to what an outage may have taken away, as a network."""

    async def open(self, on_stopped: Callable[[str], None]) -> None:
        self._on_stopped = on_stopped
        try:
            self._machines = await self._prepare()
            # What ended between adoption's look and now was told to nobody: events need an open provider.
            for instance_id in await self._connection.call(self._machines.ids):
                self._ended(instance_id)
        except BaseException:
            self._machines = None
            await self._connection.close()
            raise

    async def close(self) -> None:
        for task in self._noting:
            task.cancel()
        await asyncio.gather(*self._noting, return_exceptions=True)
        await self._connection.close()
        self._machines = None

    async def create(self, spec: InstanceSpec, report: Report) -> Machine:
        machines = self._opened()
        loop = asyncio.get_running_loop()

        begun = False

        def report_from_thread(phase: Phase) -> None:
            nonlocal begun
            begun = True
            loop.call_soon_threadsafe(report, phase)

        async with self._lock(spec.instance_id), self._making:
            try:
                return await self._connection.call(machines.create, spec, report_from_thread)
            except asyncio.CancelledError:
                # The thread went on to its end. What it made goes; a machine that it only found stays.
                if begun:
                    await self._abandon(machines, spec.instance_id)
                raise

    async def delete(self, instance_id: str) -> None:
        machines = self._opened()
        async with self._lock(instance_id):
            await self._connection.call(machines.clear, instance_id)

    async def inventory(self) -> list[Machine]:
        return await self._connection.call(self._opened().inventory)

    async def _abandon(self, machines: Machines[Connection], instance_id: str) -> None:
        machines.unfinished.add(instance_id)
        try:
            await self._connection.call(machines.undo, instance_id)
        except ProviderError as error:
            _log.warning("create_not_undone", instance_id=instance_id, error=str(error))

    def _opened(self) -> Machines[Connection]:
        if self._machines is None:
            raise HypervisorUnavailable("the provider is not open")
        return self._machines

    def _lock(self, instance_id: str) -> asyncio.Lock:
        """What happens to one instance happens in order; a lock lives as long as somebody holds or awaits it."""
        return self._order.setdefault(instance_id, asyncio.Lock())

    def _ended(self, instance_id: str) -> None:
        task = asyncio.create_task(self._note_end(instance_id))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _note_end(self, instance_id: str) -> None:
        """Under the instance's lock: the end of a machine that is still being made, or is just being deleted, waits."""
        if self._machines is None:
            return
        try:
            async with self._lock(instance_id):
                ended = await self._connection.call(self._machines.note_end, instance_id)
        except ProviderError as error:
            # Away again: the next connection compares.
            _log.warning("end_not_noted", instance_id=instance_id, error=str(error))
            return
        if ended:
            self._on_stopped(instance_id)

    def _lost(self, reason: str) -> None:
        if self._machines is not None:
            self.on_lost(reason)

    async def _catch_up(self) -> None:
        """After an outage: half-made machines go, and ends that nobody saw are told."""
        if self._machines is None:
            return
        await self._restore()
        for instance_id in list(self._machines.unfinished):
            async with self._lock(instance_id):
                if instance_id in self._machines.unfinished:
                    await self._abandon(self._machines, instance_id)
        for instance_id in await self._connection.call(self._machines.ids):
            await self._note_end(instance_id)
