"""Work in flight: each errand runs once at a time, and never stops the process when it fails."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

import structlog

from coordinator.store.lease import LeaseLost

log = structlog.get_logger()

_LONGEST_PAUSE_SECONDS: Final = 60.0
_DOUBLINGS: Final = 10


class _Key(NamedTuple):
    kind: str
    subject: str

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


class Errands:
    """`look_again(subject)` is called when an errand that was refused or has failed should be thought over anew."""

    def __init__(self, look_again: Callable[[str], None]) -> None:
        self._look_again = look_again
        self._running: dict[_Key, asyncio.Task[None]] = {}
        self._wanted_again: set[_Key] = set()
        self._failures: Counter[_Key] = Counter()
        self._resting: dict[_Key, asyncio.TimerHandle] = {}

    def ensure(self, kind: str, subject: str, work: Coroutine[Any, Any, None]) -> None:
        """Run it, unless an errand of that kind for the subject is under way, or has just failed: then it is later."""
        key = _Key(kind, subject)
        if key in self._running:
            self._wanted_again.add(key)
            work.close()
        elif key in self._resting:
            work.close()
        else:
            self._running[key] = asyncio.create_task(self._run(key, work), name=f"errand {kind} {subject}")

    def keep_only(self, is_there: Callable[[str], bool]) -> None:
        """Nothing is remembered of what failed for subjects that are no more."""
        for key in [key for key in self._failures if key not in self._running and not is_there(key.subject)]:
            del self._failures[key]
            if key in self._resting:
                self._resting.pop(key).cancel()

    async def _run(self, key: _Key, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LeaseLost:
            log.info("left to the coordinator that plans now", errand=str(key))
        except Exception:
            self._failures[key] += 1
            log.exception("errand failed", errand=str(key), failures=self._failures[key])
            self._rest(key)
        else:
            self._failures.pop(key, None)
            if key in self._wanted_again:
                self._look_again(key.subject)
        finally:
            self._wanted_again.discard(key)
            del self._running[key]

    def _rest(self, key: _Key) -> None:
        def over() -> None:
            del self._resting[key]
            self._look_again(key.subject)

        seconds = min(2.0 ** min(self._failures[key], _DOUBLINGS) / 2, _LONGEST_PAUSE_SECONDS)
        self._resting[key] = asyncio.get_running_loop().call_later(seconds, over)

    async def close(self) -> None:
        for timer in self._resting.values():
            timer.cancel()
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
