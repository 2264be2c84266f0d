"""A copy of all that the database holds, as of one moment, while coordinators go on writing to it."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store.audit import Audit
from coordinator.store.backup_file import FORMAT, Header, TableBegins, Writer
from coordinator.store.database import Database
from coordinator.store.migrate import revision_of
from coordinator.store.schema import controller, coordinators
from hostler import __version__
from hostler.errors import HostlerError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AT_ONCE: Final = 1000
_AT_ONCE_BINARY: Final = 20  # consoles are long

LEFT_OUT: Final = frozenset({coordinators.name, "alembic_version"})
"""Who runs just now says nothing elsewhere or later; the schema's revision is in the header."""


class NoRoom(HostlerError):
    """The backup cannot be put together on the coordinator's disk."""

    code = "no_room_for_backup"


class Backups:
    """Taken one after the other: each holds a moment of the database, which costs room while it is held."""

    def __init__(self, database: Database, audit: Audit, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._turn = asyncio.Lock()

    async def write(self, file: IO[bytes]) -> int:
        """Write all of it: what was committed before the call is in it. Returns how many rows that is.

        The audit log says of it that it was asked for.

        Raises:
            OSError: the file cannot be written.
        """
        async with self._turn:
            async with self._database.write() as connection:
                await self._audit.write(connection, "backed up", "database")
            database = self._database.another()  # so that no reader of the coordinator waits for this one
            try:
                return await self._write(database, file)
            finally:
                await database.close()

    async def _write(self, database: Database, file: IO[bytes]) -> int:
        async with database.read() as connection:
            if not database.is_sqlite:
                await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            header = Header(
                FORMAT,
                __version__,
                await connection.run_sync(lambda sync: revision_of(sync) or ""),
                (self._clock() - _EPOCH) // timedelta(microseconds=1),
                (await connection.execute(sa.select(controller.c.id))).scalar_one(),
            )
            writer = await asyncio.to_thread(Writer, file, header)
            for table in await connection.run_sync(tables_of):
                await _table(connection, table, writer)
            await asyncio.to_thread(writer.end)
        return writer.rows


def tables_of(connection: sa.Connection) -> list[sa.Table]:
    """Those that a backup holds, as the database says that they are, each after those that it refers to."""
    found = sa.MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name not in LEFT_OUT]


async def _table(connection: AsyncConnection, table: sa.Table, writer: Writer) -> None:
    columns = list(table.columns)
    await asyncio.to_thread(writer.begin, TableBegins(str(table.name), [str(column.name) for column in columns]))
    binary = any(isinstance(column.type, sa.LargeBinary) for column in columns)
    query = sa.select(table).execution_options(yield_per=_AT_ONCE_BINARY if binary else _AT_ONCE)
    async for rows in (await connection.stream(query)).partitions():
        await asyncio.to_thread(writer.write, rows)


@contextmanager
def spooled(directory: Path) -> Iterator[IO[bytes]]:
    """A file without a name: nothing is left of it, however this ends. Only we may read it.

    Raises:
        NoRoom: it cannot be made or written there.
    """
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            yield file
    except OSError as error:
        raise NoRoom(
            f"the backup cannot be written in {directory}: {error.strerror}",
            hint="it is put together in data_dir before it is sent: make room there",
        ) from error
