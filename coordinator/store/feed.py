"""What the store tells the rest of the process after a commit: which rows were changed, and timeline entries."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Final

from coordinator.domain.timeline import Entry
from coordinator.store.changed import Changes

_LONGEST: Final = 10_000


class Feed:
    """Tells the engine which rows were changed, and hands committed timeline entries to whoever watches."""

    def __init__(self) -> None:
        self.work = asyncio.Event()
        self._changes = Changes()
        self._watchers: set[asyncio.Queue[Entry]] = set()
        self._listeners: set[asyncio.Queue[Changes]] = set()

    def committed(self, changes: Changes) -> None:
        """A transaction has changed these, here or at another coordinator."""
        if changes.to_plan:
            self.changed(changes)
        for queue in self._listeners:
            if not queue.full():  # as with entries
                queue.put_nowait(changes)

    async def listen(self) -> AsyncGenerator[Changes, None]:
        """What is committed from now on, for ever. Nobody may change what comes."""
        queue: asyncio.Queue[Changes] = asyncio.Queue(_LONGEST)
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    def changed(self, changes: Changes) -> None:
        """These rows were changed, or what the process knows beside them, like whether a host is connected."""
        self._changes.take_in(changes)
        self.work.set()

    def take(self) -> Changes:
        """What was changed since the last call."""
        changes, self._changes = self._changes, Changes()
        self.work.clear()
        return changes

    def publish(self, entries: Iterable[Entry]) -> None:
        """Tell of committed entries."""
        if not self._watchers:
            return
        for entry in entries:
            for queue in self._watchers:
                if not queue.full():  # a watcher that does not read loses entries, never holds up the fleet
                    queue.put_nowait(entry)

    async def watch(self) -> AsyncIterator[Entry]:
        """Entries from now on, for ever."""
        queue: asyncio.Queue[Entry] = asyncio.Queue(_LONGEST)
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)
