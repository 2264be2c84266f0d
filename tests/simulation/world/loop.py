"""An event loop whose time is simulated: when nothing is ready it is at once the time of the next timer."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

BEGINNING: Final = datetime(2030, 1, 1, tzinfo=UTC)
_MOST_TURNS_AT_ONCE: Final = 200_000


class StandstillError(Exception):
    """Everything waits, and nothing will ever come; or the same moment never ends."""


class _Selector:
    """Stands where a loop waits for sockets. There are none: waiting is moving the time."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise StandstillError("everything waits and no timer is set")
        self._turns += 1
        if timeout > 0:
            self._loop.jump()
            self._turns = 0
        elif self._turns > _MOST_TURNS_AT_ONCE:
            raise StandstillError(f"{_MOST_TURNS_AT_ONCE} turns without a step in time")
        return []

    def close(self) -> None:
        """Nothing is held."""


class VirtualLoop(asyncio.BaseEventLoop):
    """No sockets, no threads; `run_in_executor` runs at once."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 1e-9
        self._selector = _Selector(self)
        self.on_task: Callable[[asyncio.Task[Any], contextvars.Context], None] = lambda _task, _context: None
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self._now)

    def jump(self) -> None:
        """To the next timer."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # no public way to it
        self._now = max(self._now, timers[0].when())

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        context: contextvars.Context | None = None,
    ) -> "asyncio.Task[Any]":
        context = context or contextvars.copy_context()
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
        self.on_task(task, context)
        return task

    def run_in_executor(  # type: ignore[override]  # as the base class does, but said more simply
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 (the caller gets it, as from a thread)
            future.set_exception(error)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no events but time."""

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody is to be woken."""
