"""Bringing a database to the schema of this program."""

import asyncio
import os
import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store.database import Database, DatabaseUnusable

log = structlog.get_logger()

_SETTING_UP: Final = 0x686F73746C6572  # any number that nobody else uses in this database


def alembic_config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("coordinator.store.migrations")))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: sa.Connection, to: str = "head") -> None:
    """
    Raises:
        DatabaseUnusable: the database is of a newer version.
    """
    current = revision_of(connection)
    if current is not None and not knows(current):
        raise DatabaseUnusable(
            f"the database has schema {current}, which this version of Hostler does not know",
            hint="it was written by a newer version: install that version, or restore a backup of before",
        )
    command.upgrade(alembic_config(connection), to)


def revision_of(connection: sa.Connection) -> str | None:
    """The schema that the database has; None: none."""
    return MigrationContext.configure(connection).get_current_revision()


def knows(revision: str) -> bool:
    """Whether this program has a migration of that name."""
    return revision in {script.revision for script in _scripts().walk_revisions()}


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic_config())


async def migrate(database: Database) -> None:
    """Run all migrations that the database lacks, in one transaction; SQLite's file is copied before.

    Raises:
        DatabaseUnusable: the database is of a newer version, or there is no room for the copy.
    """
    if database.is_sqlite:
        await asyncio.to_thread(_keep_the_old, Path(database.url.database or ""))
    async with database.write() as connection:
        await only_one_at_a_time(connection)
        await connection.run_sync(upgrade)


async def only_one_at_a_time(connection: AsyncConnection) -> None:
    """Until this transaction's end no other coordinator sets the database up. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETTING_UP)))


def _keep_the_old(path: Path) -> None:
    """Beside it, as it is before its schema is changed: an older program goes on from there."""
    if not path.exists():
        return
    with sa.create_engine(f"sqlite:///{path}").connect() as connection:
        current = revision_of(connection)
    head = _scripts().get_current_head()
    if current is None or current == head or not knows(current):
        return
    kept = path.with_name(f"{path.name}.before-{head}")
    fresh = path.with_name(f"{kept.name}.part")  # one name always: what a crash leaves is overwritten by the next try
    try:
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(path)) as source:
            source.execute("VACUUM INTO ?", (str(fresh),))
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(kept)
    except (OSError, sqlite3.Error) as error:
        fresh.unlink(missing_ok=True)
        raise DatabaseUnusable(
            f"{path}: the copy that is kept before its schema is changed cannot be made: {error}",
            hint=f"make room beside it; it is named {kept.name}",
        ) from error
    log.info("kept the database as it was before its schema is changed", copy=str(kept), schema=current)
