"""Connections: one engine for SQLite and PostgreSQL, durable commits, one writer at a time on SQLite."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from coordinator.store import changed, postgres, telling
from coordinator.store.changed import Changes
from coordinator.store.postgres import DatabaseUnusable
from coordinator.store.telling import Told

__all__ = ["Database", "DatabaseUnusable", "driver_url"]


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
        self.me = me
        self.on_change: Callable[[Changes], None] = lambda _: None
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            # SQLite has one writer; a pool of one makes writers queue here, in order, instead of failing there.
            self._writer = _sqlite_engine(self.url, size=1, begin="BEGIN IMMEDIATE")
            self._reader = _sqlite_engine(self.url, size=4, begin="BEGIN")
        else:
            self._writer, self._reader = postgres.engines(self.url)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Changes noted in the block (`changed.of`) are told to `on_change` once they are committed.

        On PostgreSQL the other coordinators are told as well, by notifications that are part of the transaction.
        """
        async with self._writer.begin() as connection:
            changes = changed.begin(connection)
            yield connection
            if changes and not self.is_sqlite:
                await self.tell(connection, *(Told(self.me, piece) for piece in telling.split(changes)))
        if changes.to_plan:
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


def _sqlite_engine(url: URL, *, size: int, begin: str) -> AsyncEngine:
    engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=size, max_overflow=0, pool_timeout=60)

    @sa.event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # We begin transactions: the driver's own begin is deferred and could fail when it turns to writing.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # a commit is on disk before the forge gets its 2xx
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
