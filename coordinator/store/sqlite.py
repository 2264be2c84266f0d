"""Connections to SQLite: written ahead, synced at each commit, one writer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, StaticPool
from sqlalchemy.util.concurrency import in_greenlet

from coordinator.store import changed
from coordinator.store.changed import Changes

Result = TypeVar("Result")

# The driver's own begin is deferred: it could fail when it turns to writing.
_TO_WRITE = "BEGIN IMMEDIATE"
_TO_READ = "BEGIN"


def engines(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    """One that writes, over one connection, and one that reads."""
    return _engine(url, size=1, begin=_TO_WRITE), _engine(url, size=4, begin=_TO_READ)


class Whole:
    """Runs whole transactions in a thread of its own. That nobody else writes meanwhile is for the caller to see to."""

    def __init__(self, url: URL) -> None:
        self._engine = sa.create_engine(url.set(drivername="sqlite+pysqlite"), poolclass=StaticPool)
        _configure(self._engine, _TO_WRITE)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")

    def run(self, transaction: Callable[[sa.Connection], Result]) -> "asyncio.Future[tuple[Result, Changes]]":
        """What it returned, and the changes that it noted, once it is committed."""
        return asyncio.get_running_loop().run_in_executor(self._thread, self._run, transaction)

    def _run(self, transaction: Callable[[sa.Connection], Result]) -> tuple[Result, Changes]:
        with self._engine.begin() as connection:
            changes = changed.begin(connection)
            result = transaction(connection)
        return result, changes

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()


def _engine(url: URL, *, size: int, begin: str) -> AsyncEngine:
    engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=size, max_overflow=0, pool_timeout=60)
    _stop_once(engine.sync_engine.dialect)
    _configure(engine.sync_engine, begin)
    return engine


def _stop_once(dialect: sa.Dialect) -> None:
    """Of a connection whose task is cancelled twice the library stops the thread twice, and the second time waits for
    ever for one that has ended: a process that goes down would not come to its end.
    """
    force = dialect.do_terminate

    def end(connection: Any) -> None:
        if in_greenlet():
            connection.close()  # ends with the thread, however often it is cancelled
        else:
            force(connection)

    dialect.do_terminate = end  # type: ignore[method-assign, assignment]


def _configure(engine: sa.Engine, begin: str) -> None:
    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we begin transactions
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # a commit is on disk before the forge gets its 2xx
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)
