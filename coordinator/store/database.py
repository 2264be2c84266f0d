"""Connections: one engine for SQLite and PostgreSQL, durable commits, one writer at a time on SQLite."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store import changed, postgres, sqlite, telling
from coordinator.store.changed import Changes
from coordinator.store.postgres import DatabaseUnusable
from coordinator.store.telling import Told

__all__ = ["Database", "DatabaseUnusable", "driver_url"]

Result = TypeVar("Result")


def driver_url(url: str) -> URL:
    """The URL with the asyncio driver that we use.

    Raises:
        DatabaseUnusable: neither SQLite nor PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # Neither the URL nor the library's error is shown: either may hold the password.
        raise DatabaseUnusable("this is not a database URL", hint=_URL_HINT) from None
    if parsed.drivername == "sqlite" and Path(parsed.database or "").is_absolute():
        return parsed.set(drivername="sqlite+aiosqlite")
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+asyncpg")
    raise DatabaseUnusable(f"'{parsed.render_as_string()}' names no database Hostler knows", hint=_URL_HINT)


_URL_HINT = "allowed: sqlite:////absolute/path.db or postgresql://user:password@host/name"


class Database:
    """`write()` and `read()` give connections in a transaction that commits when the block ends well."""

    def __init__(self, url: str, me: str = "") -> None:
        """`me`: what other coordinators on this database know this one by."""
        self.url = driver_url(url)
        self._given = url
        self.me = me
        self.on_change: Callable[[Changes], None] = lambda _: None
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            # SQLite has one writer: writers queue here, in order, instead of failing there.
            self._turn: AbstractAsyncContextManager[object] = asyncio.Lock()
            self._writer, self._reader = sqlite.engines(self.url)
            self._whole = sqlite.Whole(self.url)
        else:
            self._turn = nullcontext()
            self._writer, self._reader = postgres.engines(self.url)

    def another(self) -> "Database":
        """The same database, through connections of its own. To be closed by the caller."""
        return Database(self._given)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Changes noted in the block (`changed.of`) are told to `on_change` once they are committed.

        On PostgreSQL the other coordinators are told as well, by notifications that are part of the transaction.
        Whoever is cancelled when the commit has begun is cancelled at its end, and what was committed is told.
        """
        async with self._turn, self._writer.connect() as connection:
            await connection.begin()
            changes = changed.begin(connection)
            try:
                yield connection
                if changes and not self.is_sqlite:
                    await self.tell(connection, *(Told(self.me, piece) for piece in telling.split(changes)))
            except BaseException:
                await connection.rollback()
                raise
            commit = asyncio.ensure_future(connection.commit())
            try:
                await _to_its_end(commit)
            finally:
                if _was_done(commit):
                    self._tell_here(changes)

    async def at_once(self, transaction: Callable[[sa.Connection], Result]) -> Result:
        """As a `write()` whose whole block is a function. On SQLite it runs in a thread, without a stop at the loop.

        That halves what a transaction of a few statements costs; it is worth it where transactions follow each other.
        """
        if not self.is_sqlite:
            async with self.write() as connection:
                return await connection.run_sync(transaction)
        async with self._turn:
            work = self._whole.run(transaction)
            try:
                result, _ = await _to_its_end(work)
            finally:
                if _was_done(work):
                    self._tell_here(work.result()[1])
        return result

    def _tell_here(self, changes: Changes) -> None:
        if changes.to_plan or changes.declared:
            self.on_change(changes)

    async def tell(self, connection: AsyncConnection, *told: Told) -> None:
        """Let every coordinator hear of it when the transaction is committed."""
        if self.is_sqlite:
            return
        payloads = [{"channel": telling.CHANNEL, "payload": telling.encode(one)} for one in told]
        await connection.execute(sa.text("SELECT pg_notify(:channel, :payload)"), payloads)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._reader.begin() as connection:
            yield connection

    async def close(self) -> None:
        await self._writer.dispose()
        if self.is_sqlite:
            await self._reader.dispose()
            await self._whole.close()


async def _to_its_end(work: "asyncio.Future[Result]") -> Result:
    """Wait for it, also when cancelled: what has begun to be committed may be, and others wait for its end."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def _was_done(work: "asyncio.Future[Any]") -> bool:
    """With success."""
    return work.done() and not work.cancelled() and work.exception() is None
