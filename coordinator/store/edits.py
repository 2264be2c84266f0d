"""Single declared objects, by their ids: made, changed and removed, each in one transaction with its audit entry."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.declare import (
    CredentialsDeclaration,
    Declared,
    EndpointDeclaration,
    EntityDeclaration,
    PoolDeclaration,
    changed_declaration,
)
from coordinator.domain.fleet import EntityKind, ForgeKind
from coordinator.store import as_declared, changed
from coordinator.store.applying import Application
from coordinator.store.database import Database
from coordinator.store.overview import Overview, overview
from coordinator.store.retention import forget_instances, forget_jobs
from coordinator.store.retrying import retried
from coordinator.store.rolls import ALIVE
from coordinator.store.schema import credentials, endpoints, entities, instances, jobs, pools
from coordinator.store.writing import Tools, Writing
from hostler.errors import HostlerError

R = TypeVar("R")


class NotThere(HostlerError):
    """There is no such object."""

    code = "not_there"


class InUse(HostlerError):
    """Others refer to what was to be removed."""

    code = "in_use"


class Kind(NamedTuple):
    """Of objects that are changed one by one."""

    name: str
    table: sa.Table
    key: sa.Column[Any]  # what callers know them by
    told: tuple[str, ...]  # of one that is removed, in the audit log
    only: sa.ColumnElement[bool] = sa.true()  # of the table's rows


def endpoint_of(forge: ForgeKind) -> Kind:
    told = ("base_url", "api_base_url")
    return Kind("endpoint", endpoints, endpoints.c.name, told, endpoints.c.kind == forge)


def credentials_of(forge: ForgeKind) -> Kind:
    theirs = sa.select(endpoints.c.id).where(endpoints.c.kind == forge)
    told = ("description",)
    return Kind("credentials", credentials, credentials.c.number, told, credentials.c.endpoint_id.in_(theirs))


def entity(kind: EntityKind) -> Kind:
    told = ("weight", "quota", "priority", "balancer")
    return Kind(kind.word, entities, entities.c.id, told, entities.c.kind == kind)


ENDPOINT: Final = endpoint_of(ForgeKind.GITHUB)
CREDENTIALS: Final = credentials_of(ForgeKind.GITHUB)
REPOSITORY: Final = entity(EntityKind.REPOSITORY)
POOL: Final = Kind("pool", pools, pools.c.id, ("provider", "image", "flavor", "labels", "max_runners", "min_idle"))


class Edits:
    def __init__(self, database: Database, tools: Tools, forget: Callable[[], None]) -> None:
        """`forget` is told when anything was changed."""
        self._database = database
        self._tools = tools
        self._forget = forget

    async def overview(self) -> Overview:
        """All that is declared, as of one moment."""
        async with self._database.read() as connection:
            return await overview(connection, self._tools.sealer)

    async def add(self, declared: Declared, known_providers: frozenset[str]) -> str:
        """Make one that is not there yet; returns its row's id.

        Raises:
            AlreadyThere, UnknownReference, Clash: nothing was changed.
        """

        async def write(connection: AsyncConnection) -> str:
            writing = Writing(connection, self._tools, only_new=True)
            made = await _one(Application(writing, known_providers), declared, "")
            await writing.try_anew()
            return made

        return await self._write(write)

    async def change(
        self, kind: Kind, key: object, changes: Mapping[str, object], known_providers: frozenset[str]
    ) -> str:
        """Change some of one's keys, as its declaration calls them; returns its row's id.

        Raises:
            NotThere, AlreadyThere, UnknownReference, Clash: nothing was changed.
            ConfigError: the keys' new values do not go together.
        """

        async def write(connection: AsyncConnection) -> str:
            row = await _locked(connection, kind, key)
            old = await as_declared.of(connection, kind.name, row, self._tools.sealer)
            writing = Writing(connection, self._tools)
            await _one(Application(writing, known_providers), changed_declaration(old, changes), row.id)
            await writing.try_anew()
            return str(row.id)

        return await self._write(write)

    async def remove(self, kind: Kind, key: object) -> None:
        """Remove one that nothing refers to, with the history of what is over.

        Raises:
            NotThere, InUse: it is as it was.
        """

        async def forget_some(connection: AsyncConnection) -> int:
            row = await _locked(connection, kind, key)
            await _unused(connection, kind, row)
            return await _forget_history(connection, kind, row.id)

        async def write(connection: AsyncConnection) -> None:
            row = await _locked(connection, kind, key)
            await _unused(connection, kind, row)
            changed.of(connection).everything = True  # planners take what is new or other, not what is gone
            while await _forget_history(connection, kind, row.id):
                pass  # what has come since
            await connection.execute(sa.delete(kind.table).where(kind.table.c.id == row.id))
            values = {column.name: getattr(row, column.name) for column in kind.table.c}
            await Writing(connection, self._tools).removed(kind.name, values, kind.told)

        while await self._forget_some(forget_some):
            pass
        await self._write(write)

    @retried
    async def _forget_some(self, forget: Callable[[AsyncConnection], Awaitable[int]]) -> int:
        async with self._database.write() as connection:
            return await forget(connection)

    @retried
    async def _write(self, write: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        try:
            async with self._database.write() as connection:
                changed.of(connection).catalog = True
                return await write(connection)
        finally:
            self._forget()  # also when whoever asked has gone: it may be committed all the same


async def _one(application: Application, declared: Declared, row_id: str) -> str:
    match declared:
        case EndpointDeclaration():
            return await application.endpoint(declared, row_id)
        case CredentialsDeclaration():
            return await application.credentials(declared, row_id)
        case EntityDeclaration():
            return await application.entity(declared, row_id)
        case PoolDeclaration():
            return await application.pool(declared, row_id)
    raise TypeError(f"{type(declared).__name__} is not changed alone")


async def _locked(connection: AsyncConnection, kind: Kind, key: object) -> sa.Row[Any]:
    row = None
    if "\0" not in str(key):  # which PostgreSQL would refuse
        row = (
            await connection.execute(sa.select(kind.table).where(kind.key == key, kind.only).with_for_update())
        ).first()
    if row is None:
        raise NotThere(f"there is no {kind.name} '{str(key)[:100]}'")
    return row


# By table: who may refer to one of its rows, by which column, and what they are called.
_USERS: Final = {
    endpoints: ((credentials, "endpoint_id", "credentials"), (entities, "endpoint_id", "entities")),
    credentials: ((entities, "credentials_id", "entities"),),
    entities: ((pools, "entity_id", "pools"),),
    pools: ((instances, "pool_id", "runners"),),
}
_NAMED: Final = 10
_entity_called: Final = sa.case(
    (entities.c.name == "", entities.c.owner), else_=entities.c.owner + "/" + entities.c.name
)


async def _unused(connection: AsyncConnection, kind: Kind, row: sa.Row[Any]) -> None:
    for table, column, called in _USERS[kind.table]:
        called_by = _entity_called if table is entities else table.c.name
        query = sa.select(called_by).where(table.c[column] == row.id)
        if table is instances:
            query = query.where(instances.c.status.in_(ALIVE))
        names = list(await connection.scalars(query.order_by(called_by).limit(_NAMED)))
        if names:
            raise InUse(
                f"the {kind.name} '{_called(row)}' has {called}: {', '.join(names)}",
                hint=f"remove the {called} first",
            )


def _called(row: sa.Row[Any]) -> str:
    values = row._asdict()
    return "/".join(values[part] for part in ("owner", "name") if values.get(part))


async def _forget_history(connection: AsyncConnection, kind: Kind, row_id: str) -> int:
    """A batch of what is over; rows deleted."""
    if kind.table is pools:
        return await forget_instances(connection, instances.c.pool_id == row_id)
    if kind.table is entities:
        return await forget_jobs(connection, jobs.c.entity_id == row_id)
    return 0
