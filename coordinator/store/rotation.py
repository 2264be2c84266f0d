"""A new key for all sealed secrets, while no coordinator runs. May be killed at any moment and begun again.

The key file goes from (old) over (new, old) to (new); the database from old to new in one transaction in between.
A coordinator opens with every key in the file, so each state on this way is one that it can serve from.
"""

from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store import keys
from coordinator.store.alone import alone
from coordinator.store.database import Database, DatabaseUnusable
from coordinator.store.keys import KeyPlace
from coordinator.store.schema import (
    authority,
    controller,
    coordinators,
    credentials,
    endpoints,
    entities,
    instances,
    proxies,
    signing_keys,
    templates,
)
from coordinator.store.sealing import Sealer
from hostler.errors import HostlerError

SEALED: Final[tuple[tuple[sa.Column[bytes], str], ...]] = (
    (controller.c.instance_token_key, "controller"),
    (endpoints.c.ca_bundle, "endpoint"),
    (credentials.c.token, "credentials"),
    (entities.c.webhook_secret, "entity"),
    (templates.c.data, "template"),
    (proxies.c.password, "proxy"),
    (instances.c.runner_files, "instance"),
    (authority.c.key, "authority"),
    (signing_keys.c.key, "signing_key"),
)
"""Every sealed column, and what its rows' secrets are said to belong to: that word and the row's id."""


class StillRunning(HostlerError):
    """Keys are rotated while no coordinator runs."""

    code = "still_running"


class CredentialFixed(HostlerError):
    """A key that systemd hands over cannot be written from here."""

    code = "credential_fixed"


class Rotated(NamedTuple):
    secrets: int
    finished_earlier: bool  # a rotation that was begun before was brought to its end


async def rotate(url: str, place: KeyPlace) -> Rotated:
    """Seal everything with a new key.

    Raises:
        StillRunning: a coordinator uses the database.
        SealBroken: a secret does not open with the key that is there; nothing was changed.
        HostlerError: key file or database cannot be used.
    """
    with alone(url):
        found = keys.load(place)
        database = Database(url)
        try:
            return await _rotate(database, place, found)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            raise DatabaseUnusable(
                f"{database.url.render_as_string()}: {reason}", hint="check database.url; start the coordinator once"
            ) from error
        finally:
            await database.close()


async def _rotate(database: Database, place: KeyPlace, found: list[bytes]) -> Rotated:
    begun = len(found) > 1
    await _nobody_runs(database)
    if not begun:
        await _prove(database, found)  # before anything is changed
        found = _begin(place, found)
    count = await _reseal(database, Sealer(*found))
    await _prove(database, found[:1])
    if not place.given:
        keys.write(place.path, found[:1], like=place.path)
        keys.remove(place.old)
    return Rotated(count, begun)


def _begin(place: KeyPlace, found: list[bytes]) -> list[bytes]:
    if place.given:
        raise CredentialFixed(
            f"{place.path}: the key is a credential that systemd hands over, and cannot be written from here",
            hint="put 32 random bytes before the old key in the credential's source, run this again with it, and then "
            "leave only the first 32 bytes there",
        )
    keys.write(place.old, found, like=place.path)
    both = [keys.new_key(), *found]
    keys.write(place.path, both, like=place.path)
    return both


async def _reseal(database: Database, sealer: Sealer) -> int:
    count = 0
    async with database.write() as connection:
        for column, owner in SEALED:
            for row in await _sealed(connection, column):
                belongs_to = f"{owner}:{row.id}"
                sealed = sealer.seal(sealer.open(row.sealed, belongs_to), belongs_to)
                table = column.table
                await connection.execute(sa.update(table).where(table.c.id == row.id).values({column.name: sealed}))
                count += 1
    return count


async def _prove(database: Database, with_keys: list[bytes]) -> None:
    """Open every secret with these keys alone."""
    async with database.read() as connection:
        await open_all(connection, Sealer(*with_keys))


async def open_all(connection: AsyncConnection, sealer: Sealer) -> None:
    """
    Raises:
        SealBroken: a secret does not open.
    """
    for column, owner in SEALED:
        for row in await _sealed(connection, column):
            sealer.open(row.sealed, f"{owner}:{row.id}")


async def _sealed(connection: AsyncConnection, column: sa.Column[bytes]) -> list[sa.Row[Any]]:
    query = sa.select(column.table.c.id, column.label("sealed")).where(column.is_not(None)).order_by(column.table.c.id)
    return list(await connection.execute(query))


async def _nobody_runs(database: Database) -> None:
    if database.is_sqlite:
        return  # the lock has said so
    now = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1_000_000, sa.BigInteger)
    query = sa.select(sa.func.count()).select_from(coordinators).where(coordinators.c.expires_at > now)
    async with database.read() as connection:
        running = (await connection.execute(query)).scalar_one()
    if running:
        raise StillRunning(
            f"{running} of the coordinators that share this PostgreSQL are running",
            hint="stop all of them; one that was killed counts as running for some seconds more",
        )
