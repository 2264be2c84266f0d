"""Guests that ask for something before it is there: they are answered when it comes, without polling."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Waiting:
    def __init__(self) -> None:
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = False

    def notify(self, key: str) -> None:
        """What `key` waits for may be there now."""
        for event in self._waiters.get(key, ()):
            event.set()

    def notify_all(self) -> None:
        for key in self._waiters:
            self.notify(key)

    def close(self) -> None:
        """Answer everybody now: this process ends, and its successor can be asked again."""
        self._closed = True
        self.notify_all()

    async def until(self, key: str, ask: Callable[[], Awaitable[T | None]], seconds: float) -> T | None:
        """Ask now and after each notice until there is an answer; None when there is none in time.

        Time ends the wait, never a question: what is handed out once would be taken, and given to nobody.
        """
        event = asyncio.Event()
        over_at = asyncio.get_running_loop().time() + seconds
        self._waiters[key].add(event)
        try:
            while (answer := await ask()) is None and not self._closed:
                try:
                    async with asyncio.timeout_at(over_at):
                        await event.wait()
                except TimeoutError:
                    return None
                event.clear()
            return answer
        finally:
            self._waiters[key].discard(event)
            if not self._waiters[key]:
                del self._waiters[key]
