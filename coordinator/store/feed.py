"""What the store tells the rest of the process after a commit: timeline entries, and that there is work."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from coordinator.domain.timeline import Entry

_LONGEST: Final = 10_000


class Feed:
    """Wakes the engine and hands committed timeline entries to whoever watches."""

    def __init__(self) -> None:
        self.work = asyncio.Event()
        self._watchers: set[asyncio.Queue[Entry]] = set()

    def publish(self, entries: Iterable[Entry], *, work: bool = True) -> None:
        """Tell of committed entries; `work` wakes the engine."""
        if work:
            self.work.set()
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
