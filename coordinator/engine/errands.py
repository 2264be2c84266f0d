"""Work in flight: each errand runs once at a time, and never stops the process when it fails."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from coordinator.store.lease import LeaseLost

log = structlog.get_logger()

_LONGEST_PAUSE_SECONDS: Final = 60.0


class Errands:
    """`look_again(subject)` is called when an errand that was refused or has failed should be thought over anew."""

    def __init__(self, look_again: Callable[[str], None]) -> None:
        self._look_again = look_again
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wanted_again: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._timers: set[asyncio.TimerHandle] = set()

    def ensure(self, kind: str, subject: str, work: Coroutine[Any, Any, None]) -> None:
        """Run it, unless an errand of that kind for the subject is under way."""
        key = f"{kind} {subject}"
        if key in self._running:
            self._wanted_again.add(key)
            work.close()
            return
        self._running[key] = asyncio.create_task(self._run(key, subject, work), name=f"errand {key}")

    async def _run(self, key: str, subject: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LeaseLost:
            log.info("left to the coordinator that plans now", errand=key)
        except Exception:
            self._failures[key] += 1
            log.exception("errand failed", errand=key, failures=self._failures[key])
            self._later(subject, min(2.0 ** self._failures[key] / 2, _LONGEST_PAUSE_SECONDS))
        else:
            self._failures.pop(key, None)
            if key in self._wanted_again:
                self._look_again(subject)
        finally:
            self._wanted_again.discard(key)
            del self._running[key]

    def _later(self, subject: str, seconds: float) -> None:
        def due() -> None:
            self._timers.discard(timer)
            self._look_again(subject)

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._timers.add(timer)

    async def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
