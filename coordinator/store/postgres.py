"""Connections to PostgreSQL: errors that say what to do, and limits on what a dead peer can hold up."""

from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from hostler.errors import HostlerError

_CONNECT_SECONDS: Final = 10.0
_STATEMENT_SECONDS: Final = 60.0
_SETTINGS: Final = {
    "application_name": "hostler-coordinator",
    # A coordinator that froze within a transaction must not keep its locks from the others.
    "idle_in_transaction_session_timeout": "5000",
}


class DatabaseUnusable(HostlerError):
    """The database cannot be used as configured."""

    code = "database_unusable"


async def connect(url: URL) -> Any:
    """A new connection of asyncpg, which has no types.

    Raises:
        DatabaseUnusable: the server cannot be reached, refuses us, or has no such database.
    """
    try:
        return await asyncpg.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False),
            timeout=_CONNECT_SECONDS,
            command_timeout=_STATEMENT_SECONDS,
            server_settings=_SETTINGS,
        )
    except TimeoutError as error:
        raise _unusable(url, f"no answer within {_CONNECT_SECONDS:.0f} s") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise _unusable(url, str(error)) from error


def _unusable(url: URL, reason: str) -> DatabaseUnusable:
    return DatabaseUnusable(
        f"{url.render_as_string()}: {reason}",
        hint="check database.url, that the server runs, and that this user may use the database",
    )


def engines(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    """One that writes and one that reads, over one pool. What is read in one transaction is of one moment."""

    async def connection(*_: Any, **__: Any) -> Any:
        return await connect(url)

    writer = create_async_engine(url, async_creator=connection, pool_size=10, max_overflow=10, pool_timeout=30)

    @sa.event.listens_for(writer.sync_engine, "checkout")
    def open_still(_: Any, record: Any, __: Any) -> None:
        # Known without asking the server: after its restart no request fails for a connection that had been idle.
        if record.driver_connection.is_closed():
            raise sa.exc.DisconnectionError("the server closed it")

    reader = writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return writer, reader


def sqlstate(error: sa.exc.DBAPIError) -> str:
    """PostgreSQL's code of an error; empty for SQLite."""
    return str(getattr(error.orig, "sqlstate", None) or "")
