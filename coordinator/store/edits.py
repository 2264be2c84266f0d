"""Single declared objects, by their ids: made, changed and removed, each in one transaction with its audit entry."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.declare import changed_declaration
from coordinator.declare_plan import AnyDeclared
from coordinator.domain.fleet import EntityKind, ForgeKind
from coordinator.store import as_declared, changed, listed
from coordinator.store.applying import Application
from coordinator.store.database import Database
from coordinator.store.listed import KnownProxy, KnownScaleSet, KnownTemplate
from coordinator.store.overview import Overview, overview
from coordinator.store.retention import forget_instances, forget_jobs
from coordinator.store.retrying import retried
from coordinator.store.rolls import ALIVE
from coordinator.store.schema import (
    credentials,
    endpoints,
    entities,
    instances,
    jobs,
    pools,
    proxies,
    scale_sets,
    templates,
)
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

_SCALE_SET_TOLD = ("provider", "image", "flavor", "labels", "max_runners", "min_idle")
SCALE_SET: Final = Kind("scale set", scale_sets, scale_sets.c.number, _SCALE_SET_TOLD)
TEMPLATE: Final = Kind("template", templates, templates.c.number, ("description", "os_type", "forge"))
PROXY: Final = Kind("proxy", proxies, proxies.c.number, ("http_proxy", "https_proxy", "no_proxy", "username"))


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

    async def scale_sets(self) -> list[KnownScaleSet]:
        """In the order of their numbers, as the others."""
        async with self._database.read() as connection:
            return await listed.scale_sets(connection)

    async def templates(self) -> list[KnownTemplate]:
        """Without their texts."""
        async with self._database.read() as connection:
            return await listed.templates(connection)

    async def template_text(self, number: int) -> str | None:
        """None: there is no such template."""
        async with self._database.read() as connection:
            return await listed.template_text(connection, self._tools.sealer, number)

    async def proxies(self) -> list[KnownProxy]:
        async with self._database.read() as connection:
            return await listed.proxies(connection)

    async def add(self, declared: AnyDeclared, known_providers: frozenset[str]) -> str:
        """Make one that is not there yet; returns its row's id.

        Raises:
            AlreadyThere, UnknownReference, Clash: nothing was changed.
        """

        async def write(connection: AsyncConnection) -> str:
            writing = Writing(connection, self._tools, only_new=True)
            made = await Application(writing, known_providers).one(declared)
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
            await Application(writing, known_providers).one(changed_declaration(old, changes), row.id)
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
            await unused(connection, kind, row)
            return await forget_history(connection, kind, row.id)

        async def write(connection: AsyncConnection) -> None:
            row = await _locked(connection, kind, key)
            await unused(connection, kind, row)
            await remove_row(Writing(connection, self._tools), kind, row)

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


async def remove_row(writing: Writing, kind: Kind, row: sa.Row[Any]) -> None:
    """Remove what nothing refers to, and write that down."""
    connection = writing.connection
    changed.of(connection).everything = True  # planners take what is new or other, not what is gone
    while await forget_history(connection, kind, row.id):
        pass  # what has come since
    await connection.execute(sa.delete(kind.table).where(kind.table.c.id == row.id))
    values = {column.name: getattr(row, column.name) for column in kind.table.c}
    await writing.removed(kind.name, values, kind.told)


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
_USERS: Final[Mapping[sa.Table, tuple[tuple[sa.Table, str, str], ...]]] = {
    endpoints: ((credentials, "endpoint_id", "credentials"), (entities, "endpoint_id", "entities")),
    credentials: ((entities, "credentials_id", "entities"),),
    entities: ((pools, "entity_id", "pools"), (scale_sets, "entity_id", "scale sets")),
    pools: ((instances, "pool_id", "runners"),),
    scale_sets: (),
    templates: ((pools, "template_id", "pools"), (scale_sets, "template_id", "scale sets")),
    proxies: ((pools, "proxy_id", "pools"), (scale_sets, "proxy_id", "scale sets")),
}
_NAMED: Final = 10
_LET_GO: Final = "disable the pool, with enabled = false, and remove it when its machines are gone"
_OTHER: Final = "let them name another one, or none"
_HOW: Final[Mapping[tuple[sa.Table, sa.Table], str]] = {
    (pools, instances): _LET_GO,
    **{(named, by): _OTHER for named in (templates, proxies) for by in (pools, scale_sets)},
}
_entity_called: Final = sa.case(
    (entities.c.name == "", entities.c.owner), else_=entities.c.owner + "/" + entities.c.name
)


async def unused(
    connection: AsyncConnection, kind: Kind, row: sa.Row[Any], going: Collection[str] = frozenset()
) -> None:
    """
    Args:
        going: ids of what is removed with it.

    Raises:
        InUse: something else refers to it.
    """
    for table, column, called in _USERS.get(kind.table, ()):
        called_by = _entity_called if table is entities else table.c.name
        query = sa.select(called_by).where(table.c[column] == row.id)
        if table is instances:
            query = query.where(instances.c.status.in_(ALIVE))
        if going:
            query = query.where(table.c.id.not_in(going))
        names = list(await connection.scalars(query.order_by(called_by).limit(_NAMED)))
        if names:
            how = _HOW.get((kind.table, table), f"remove the {called} first")
            raise InUse(f"the {kind.name} '{_called(row)}' has {called}: {', '.join(names)}", hint=how)


def _called(row: sa.Row[Any]) -> str:
    values = row._asdict()
    return "/".join(values[part] for part in ("owner", "name") if values.get(part))


WITH_HISTORY: Final = (pools, entities)


async def forget_history(connection: AsyncConnection, kind: Kind, row_id: str) -> int:
    """Forget a batch of what is over; rows deleted."""
    if kind.table is pools:
        return await forget_instances(connection, instances.c.pool_id == row_id)
    if kind.table is entities:
        return await forget_jobs(connection, jobs.c.entity_id == row_id)
    return 0
