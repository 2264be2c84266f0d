"""Reading and writing instances within a transaction."""

from collections.abc import Collection, Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.instance import Instance, Status
from coordinator.store import changed
from coordinator.store.rows import from_instance, to_instance
from coordinator.store.schema import instances

_MUTABLE: Final = (
    "status",
    "runner_status",
    "generation",
    "changed_at",
    "bootstrap_deadline",
    "idle_since",
    "job_id",
    "provider_id",
    "forge_runner_id",
    "fault",
)


def _query(where: sa.ColumnElement[bool], *, lock: bool) -> sa.Select[Any]:
    query = sa.select(instances).where(where).order_by(instances.c.created_at, instances.c.id)
    return query.with_for_update() if lock else query


async def _select(connection: AsyncConnection, where: sa.ColumnElement[bool], *, lock: bool) -> list[Instance]:
    return [to_instance(row) for row in await connection.execute(_query(where, lock=lock))]


def by_names(connection: sa.Connection, names: Iterable[str]) -> list[Instance]:
    """Locked for the transaction."""
    wanted = list(names)
    if not wanted:
        return []
    return [to_instance(row) for row in connection.execute(_query(instances.c.name.in_(wanted), lock=True))]


def locked(connection: sa.Connection, instance_id: str) -> Instance | None:
    """Locked for the transaction."""
    row = connection.execute(_ONE, {"wanted": instance_id}).first()
    return to_instance(row) if row else None


async def by_ids(connection: AsyncConnection, ids: Iterable[str], *, lock: bool = True) -> list[Instance]:
    wanted = list(ids)
    return await _select(connection, instances.c.id.in_(wanted), lock=lock) if wanted else []


async def alive(connection: AsyncConnection, hosts: Collection[str] | None = None) -> list[Instance]:
    """All that are not deleted, of some hosts or of all."""
    where = instances.c.status != Status.DELETED
    if hosts is not None:
        where &= instances.c.host.in_(hosts)
    return await _select(connection, where, lock=False)


async def of_host(connection: AsyncConnection, host: str) -> list[Instance]:
    """Those of a host that are not deleted, locked for the transaction."""
    return await _select(connection, (instances.c.status != Status.DELETED) & (instances.c.host == host), lock=True)


async def forget_files(connection: AsyncConnection, ids: Collection[str]) -> None:
    """What runners were to be configured with is not needed any more."""
    if ids:
        await connection.execute(sa.update(instances).where(instances.c.id.in_(ids)).values(runner_files=None))


def insert(connection: sa.Connection, new: Iterable[Instance]) -> None:
    rows = [from_instance(instance) | {"runner_files_taken": frozenset()} for instance in new]
    if rows:
        changed.of(connection).instances.update(row["id"] for row in rows)
        connection.execute(sa.insert(instances), rows)


def save(connection: sa.Connection, instances_: Iterable[Instance]) -> None:
    rows = [
        {"key_id": instance.id} | {f"new_{name}": getattr(instance, name) for name in _MUTABLE}
        for instance in instances_
    ]
    if rows:
        changed.of(connection).instances.update(row["key_id"] for row in rows)
        connection.execute(_UPDATE, rows)


# Built once: they are asked for on the way of each job.
_ONE: Final = sa.select(instances).where(instances.c.id == sa.bindparam("wanted")).with_for_update()
_UPDATE: Final = (
    sa.update(instances)
    .where(instances.c.id == sa.bindparam("key_id"))
    .values({name: sa.bindparam(f"new_{name}") for name in _MUTABLE})
)
