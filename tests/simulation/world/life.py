"""One life of the coordinator: all its tasks and database connections, which end together when it is killed.

SQLite runs in the loop's own thread. Commits are real; each takes a little simulated time, so that transactions, calls
and messages interleave by the seed.
"""

import asyncio
import contextvars
import random
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import aiosqlite

T = TypeVar("T")

CURRENT: contextvars.ContextVar["Life | None"] = contextvars.ContextVar("life", default=None)


class DeadError(Exception):
    """The coordinator that was asked is no more."""


class Life:
    """`dies_at`: the number of the write commit at which it is killed, and whether that commit still happens."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        chance: random.Random,
        on_commit: Callable[[], None],
        on_death: Callable[[], None],
        dies_at: tuple[int, bool] | None = None,
    ) -> None:
        self.alive = True
        self.commits = 0
        self.ended = asyncio.Event()
        self._loop = loop
        self._chance = chance
        self._on_commit = on_commit
        self._on_death = on_death
        self._dies_at = dies_at
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._connections: list[InlineConnection] = []
        self._context = contextvars.copy_context()
        self._context.run(CURRENT.set, self)

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def holds(self, connection: "InlineConnection") -> None:
        self._connections.append(connection)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run something as a part of this life."""
        return self._loop.create_task(work, context=self._context.copy())

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something as a part of this life and wait for its answer.

        Raises:
            DeadError: the life ended before.
        """
        if not self.alive:
            work.close()
            raise DeadError
        task = self.spawn(work)
        ended = asyncio.ensure_future(self.ended.wait())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            ended.cancel()
        if not self.alive or task.cancelled():
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise DeadError
        return task.result()

    def kill(self) -> None:
        """As by kill -9: what is not committed never was, and nothing that it still does has an effect."""
        if not self.alive:
            return
        self.alive = False
        for connection in self._connections:
            connection.drop()
        self.ended.set()
        self._on_death()

    def spare(self) -> None:
        """It is not to be killed any more."""
        self._dies_at = None

    async def bury(self) -> None:
        """Wait until all tasks of a killed life have ended."""
        for _ in range(1000):
            if not self._tasks:
                return
            for task in list(self._tasks):
                task.cancel()
            await asyncio.sleep(0)
        raise AssertionError(f"tasks outlive their coordinator: {list(self._tasks)[:3]}")

    async def commit(self, connection: sqlite3.Connection, *, wrote: bool) -> None:
        """Raises asyncio.CancelledError when the life ends with this commit."""
        if self._chance.random() < (0.5 if wrote else 0.2):
            await asyncio.sleep(self._chance.uniform(0.0002, 0.004))
        if not self.alive:
            raise asyncio.CancelledError
        if wrote:
            self.commits += 1
        here = wrote and self._dies_at is not None and self.commits == self._dies_at[0]
        if here and self._dies_at == (self.commits, False):
            self.kill()
            raise asyncio.CancelledError
        connection.commit()
        if wrote:
            self._on_commit()
        if here:
            self.kill()
            raise asyncio.CancelledError


class _AtOnce:
    """In place of the queue to a connection's thread."""

    def put_nowait(self, item: tuple["asyncio.Future[Any] | None", Callable[[], Any]]) -> None:
        future, function = item
        result = function()
        if future is not None:
            future.set_result(result)


class InlineConnection(aiosqlite.Connection):
    """Does everything in the caller's thread."""

    def __init__(self, connector: Callable[[], sqlite3.Connection], iter_chunk_size: int, loop: Any = None) -> None:
        super().__init__(connector, iter_chunk_size)
        self._tx = _AtOnce()  # type: ignore[assignment]  # what is asked of it is put_nowait alone
        self._life = CURRENT.get()
        self._written = 0
        if self._life is not None:
            self._life.holds(self)

    def __await__(self) -> Any:
        return self._connect().__await__()

    async def _connect(self) -> "InlineConnection":
        self._check()
        if self._connection is None:
            self._connection = self._connector()
        return self

    def _check(self) -> None:
        if self._life is not None and not self._life.alive:
            raise asyncio.CancelledError

    async def _execute(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self._check()
        return fn(*args, **kwargs)

    async def commit(self) -> None:
        self._check()
        raw = self._conn
        wrote = raw.total_changes != self._written
        self._written = raw.total_changes
        if self._life is None:
            raw.commit()
        else:
            await self._life.commit(raw, wrote=wrote)

    async def rollback(self) -> None:
        if self._connection is not None:
            self._connection.rollback()
            self._written = self._connection.total_changes

    async def close(self) -> None:
        self.drop()

    def stop(self) -> None:
        self.drop()

    def drop(self) -> None:
        """What is not committed is lost."""
        self._running = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None
