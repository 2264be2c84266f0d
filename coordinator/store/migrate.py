"""Bringing a database to the schema of this program."""

from importlib.resources import files

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store.database import Database, DatabaseUnusable

_SETTING_UP = 0x686F73746C6572  # any number that nobody else uses in this database


def alembic_config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("coordinator.store.migrations")))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: sa.Connection) -> None:
    config = alembic_config(connection)
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise DatabaseUnusable(
            f"the database has schema {current}, which this version of Hostler does not know",
            hint="it was written by a newer version: install that version, or restore a backup of before",
        )
    command.upgrade(config, "head")


async def migrate(database: Database) -> None:
    """Run all migrations that the database lacks, in one transaction.

    Raises:
        DatabaseUnusable: the database is of a newer version.
    """
    async with database.write() as connection:
        await only_one_at_a_time(connection)
        await connection.run_sync(_upgrade)


async def only_one_at_a_time(connection: AsyncConnection) -> None:
    """Until this transaction's end no other coordinator sets the database up. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETTING_UP)))
