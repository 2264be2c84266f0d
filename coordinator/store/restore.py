"""An empty database filled from a backup: of the other engine too, and of an older version of Hostler."""

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store import keys, migrate
from coordinator.store.alone import alone
from coordinator.store.backup import tables_of
from coordinator.store.backup_file import BackupUnusable, Header, Reader, TableBegins, broken
from coordinator.store.database import Database, DatabaseUnusable
from coordinator.store.keys import KeyPlace
from coordinator.store.rotation import open_all
from coordinator.store.sealing import SealBroken, Sealer
from hostler.errors import HostlerError

_AT_ONCE: Final = 500
_LEASE: Final = "planning_lease"


class DatabaseInUse(HostlerError):
    """The database has something in it already."""

    code = "database_in_use"


class WrongKey(HostlerError):
    """The backup's secrets are sealed with another key."""

    code = "wrong_key"


class Restored(NamedTuple):
    header: Header
    rows: int

    @property
    def made_at(self) -> datetime:
        return datetime.fromtimestamp(self.header.made_at / 1_000_000, UTC)


async def restore(url: str, file: Path, place: KeyPlace) -> Restored:
    """Fill it, and bring it to the schema of this program: all in one transaction.

    Raises:
        BackupUnusable: the file cannot be read, is no backup, is damaged or of a newer version.
        DatabaseInUse: there are tables in the database.
        WrongKey: the key does not open what is sealed in the backup.
        HostlerError: a coordinator runs, or key file or database cannot be used.
    """
    with alone(url):
        sealer = Sealer(*keys.load(place))
        database = Database(url)
        try:
            with file.open("rb") as packed, Reader(packed) as backup:
                async with database.write() as connection:
                    await migrate.only_one_at_a_time(connection)
                    return await _restore(connection, backup, sealer, place)
        except sa.exc.SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or error
            raise DatabaseUnusable(
                f"{database.url.render_as_string()}: {reason}", hint="check database.url; nothing was changed"
            ) from error
        except OSError as error:
            raise BackupUnusable(f"{file}: {error.strerror or error}") from error
        finally:
            await database.close()


async def _restore(connection: AsyncConnection, backup: Reader, sealer: Sealer, place: KeyPlace) -> Restored:
    if await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()):
        raise DatabaseInUse(
            "there is something in the database already",
            hint="restore into an empty one: move the old one away, or name another as database.url",
        )
    await connection.run_sync(_make_tables, backup.header)
    count = await _fill(connection, backup)
    await connection.run_sync(migrate.upgrade)
    try:
        await open_all(connection, sealer)
    except SealBroken as error:
        raise WrongKey(
            f"what is sealed in the backup does not open with the key in {place.path}",
            hint="put the key file there that its coordinator had",
        ) from error
    return Restored(backup.header, count)


def _make_tables(connection: sa.Connection, header: Header) -> None:
    if not migrate.knows(header.revision):
        raise BackupUnusable(
            f"the backup has schema {header.revision}, which this version of Hostler does not know",
            hint=f"restore it with a version as new as the one that wrote it: {header.version}",
        )
    migrate.upgrade(connection, header.revision)


async def _fill(connection: AsyncConnection, backup: Reader) -> int:
    tables = {table.name: table for table in await connection.run_sync(tables_of)}
    for table in reversed(tables.values()):
        await connection.execute(sa.delete(table))  # the rows that a new database begins with
    count = 0
    for table, columns, rows in _batches(backup, tables):
        binary = [name for name in columns if isinstance(table.columns[name].type, sa.LargeBinary)]
        values = await asyncio.to_thread(_values, columns, binary, rows)
        await connection.execute(sa.insert(table), values)
        count += len(rows)
    # Held by a process of before, perhaps without an end.
    if _LEASE in tables:
        await connection.execute(sa.update(tables[_LEASE]).values(holder="", expires_at=0))
    if connection.dialect.name == "postgresql":
        await _go_on_counting(connection, tables.values())
    return count


def _batches(backup: Reader, tables: dict[str, sa.Table]) -> Iterator[tuple[sa.Table, list[str], list[list[Any]]]]:
    """At most so many rows of one table at a time; tables without rows are passed over."""
    table: sa.Table | None = None
    columns: list[str] = []
    for is_row, pieces in groupby(backup.pieces(), key=lambda piece: isinstance(piece, list)):
        if is_row and table is not None:
            yield from ((table, columns, batch) for batch in _cut(pieces))
            continue
        for piece in pieces:
            assert isinstance(piece, TableBegins)  # noqa: S101 (a backup begins with a table)
            table, columns = tables.get(piece.table), piece.columns
            if table is None or not set(columns) <= set(table.columns.keys()):
                raise BackupUnusable(f"the backup has a table '{piece.table}' that its schema lacks")


def _cut(rows: Iterator[Any]) -> Iterator[list[list[Any]]]:
    batch: list[list[Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _values(columns: list[str], binary: list[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    try:
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        for values in found:
            for name in binary:
                values[name] = msgspec.convert(values[name], bytes | None)
    except (ValueError, msgspec.ValidationError):
        raise broken() from None
    return found


async def _go_on_counting(connection: AsyncConnection, tables: Iterable[sa.Table]) -> None:
    """PostgreSQL's own counters know nothing of rows that came with their numbers."""
    for table in tables:
        for column in table.primary_key:
            named = sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))
            sequence = (await connection.execute(named)).scalar()
            if sequence is not None:
                following = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
                await connection.execute(sa.select(sa.func.setval(sequence, following, sa.false())))
