"""Writing one declared object within a transaction: what changed of it, its audit entry, and what is tried again."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.accounts.chain import MASK
from coordinator.declare_base import Refused
from coordinator.domain.fleet import EntityKind
from coordinator.store import changed as changes
from coordinator.store import cooldowns, tried
from coordinator.store.audit import Audit
from coordinator.store.schema import endpoints, entities, flavors, pools
from coordinator.store.sealing import Sealer


class UnknownReference(Refused):
    """A declared object refers to one that is neither declared nor in the database."""

    code = "unknown_reference"


class Clash(Refused):
    """A declared object cannot be beside what is there."""

    code = "clash"


class AlreadyThere(Refused):
    """What was to be new is there."""

    code = "already_there"


class Tools(NamedTuple):
    """What every write of a declared object needs."""

    sealer: Sealer
    audit: Audit
    new_id: Callable[[], str]
    clock: Callable[[], datetime]


class Writing:
    """What one transaction writes of what people declare."""

    def __init__(self, connection: AsyncConnection, tools: Tools, *, only_new: bool = False) -> None:
        """`only_new`: an object that is there already is not changed but refused."""
        self.connection = connection
        self._tools = tools
        self._only_new = only_new
        self._touched: defaultdict[str, set[str]] = defaultdict(set)  # kind to ids of what is new or changed

    async def find(self, kind: str, name: str, table: sa.Table, where: sa.ColumnElement[bool], among: str = "") -> str:
        row = (await self.connection.execute(sa.select(table.c.id).where(where))).first()
        if row is None:
            raise UnknownReference(
                f"there is no {kind} '{name}'{among}", hint=f"declare it in a [[{kind}]] table, or check its name"
            )
        return str(row.id)

    async def upsert(
        self,
        kind: str,
        table: sa.Table,
        key: Mapping[str, Any],
        values: dict[str, Any],
        secrets: Mapping[str, str] | None = None,
        *,
        row_id: str = "",
    ) -> tuple[str, list[str]]:
        """Its id, and the columns of an object that was there and is changed; none for a new one.

        Args:
            row_id: the object is known by it, and its key may be changed as well.

        Raises:
            AlreadyThere: only new ones are taken, or another one has the key.
        """
        row = await self._row(kind, table, key, row_id)
        if row_id:
            values = {**key, **values}
        row_id = row.id if row else self._tools.new_id()
        owner = seal_owner(kind, row_id)
        changed = [name for name, value in values.items() if row is None or getattr(row, name) != value]
        for name, secret in (secrets or {}).items():
            if row is None or opened(self._tools.sealer, getattr(row, name), owner) != secret:
                values = values | {name: self._tools.sealer.seal(secret.encode(), owner) if secret else None}
                changed.append(name)
        if row is None or changed:
            self._touched[kind].add(row_id)
            changes.of(self.connection).declared.add(changes.said(kind, "updated" if row else "created", row_id))
        label = told_as(kind, key)
        if row is None:
            await self._insert(table, {"id": row_id, **key, **values})
            await self._tools.audit.write(self.connection, "created", label, after=_told(values, values, secrets))
            return row_id, []
        if changed:
            await self._update(table, row_id, values)
            before = _told({name: getattr(row, name) for name in changed}, changed, secrets)
            after = _told(values, changed, secrets)
            await self._tools.audit.write(self.connection, "updated", label, before=before, after=after)
        return row_id, changed

    async def _row(self, kind: str, table: sa.Table, key: Mapping[str, Any], row_id: str) -> sa.Row[Any] | None:
        where = sa.and_(*(table.c[name] == value for name, value in key.items()))
        of_key = (await self.connection.execute(sa.select(table).where(where))).first()
        if of_key is not None and (self._only_new or row_id not in ("", of_key.id)):
            raise AlreadyThere(f"there is {told_as(kind, key)} already", hint="update that one, or choose another name")
        if not row_id:
            return of_key
        return (await self.connection.execute(sa.select(table).where(table.c.id == row_id))).one()

    async def _insert(self, table: sa.Table, values: dict[str, Any]) -> None:
        now = self._tools.clock()
        times = {"created_at": now, "changed_at": now} if "created_at" in table.c else {}
        await self.connection.execute(sa.insert(table).values(values | times))

    async def _update(self, table: sa.Table, row_id: str, values: dict[str, Any]) -> None:
        times = {"changed_at": self._tools.clock()} if "created_at" in table.c else {}
        await self.connection.execute(sa.update(table).where(table.c.id == row_id).values(values | times))

    async def removed(self, kind: str, row: Mapping[Any, Any], told: Iterable[str]) -> None:
        """Write into the audit log that an object is no more, with what it was."""
        before = _told(row, told, None)
        called = await self._watched_as(kind, row)
        changes.of(self.connection).declared.add(changes.said(called, "removed", row.get("number") or row["id"]))
        await self._tools.audit.write(self.connection, "removed", told_as(kind, row), before=before)

    async def _watched_as(self, kind: str, row: Mapping[Any, Any]) -> str:
        """Its kind, with that of its forge, which nobody can look up any more."""
        if kind == "endpoint":
            return f"{row['kind']} endpoint"
        if kind == "credentials":
            query = sa.select(endpoints.c.kind).where(endpoints.c.id == row["endpoint_id"])
            return f"{await self.connection.scalar(query)} credentials"
        return kind

    async def date(self, which: sa.ColumnElement[bool], table: sa.Table = pools) -> None:
        """Idle runners of an older making are replaced."""
        await self.connection.execute(sa.update(table).where(which).values(generation=table.c.generation + 1))

    async def try_anew(self) -> None:
        """What was changed may be what was wrong: pools that rest, and jobs that wait for them, are tried again now."""
        touched = self._touched
        if not touched:
            return
        query = sa.select(pools.c.id, pools.c.entity_id).join(entities, entities.c.id == pools.c.entity_id)
        meant = sa.or_(
            pools.c.id.in_(touched["pool"]),
            pools.c.flavor.in_(sa.select(flavors.c.name).where(flavors.c.id.in_(touched["flavor"]))),
            pools.c.template_id.in_(touched["template"]),
            pools.c.proxy_id.in_(touched["proxy"]),
            entities.c.id.in_(set[str]().union(*(touched[kind.word] for kind in EntityKind))),
            entities.c.credentials_id.in_(touched["credentials"]),
            entities.c.endpoint_id.in_(touched["endpoint"]),
        )
        rows = (await self.connection.execute(query.where(meant))).all()
        await cooldowns.wake_pools(self.connection, sorted(row.id for row in rows))
        await tried.forgive(self.connection, sorted({row.entity_id for row in rows}))


def told_as(kind: str, key: Mapping[Any, Any]) -> str:
    """What lines for people and the audit log call an object."""
    return f"{kind} {'/'.join(str(key[part]) for part in ('owner', 'name', 'arch') if key.get(part))}"


def seal_owner(kind: str, row_id: str) -> str:
    """Who its secrets are sealed for."""
    return f"{_SEAL_OWNER.get(kind, kind)}:{row_id}"


_SEAL_OWNER: Final[Mapping[str, str]] = {kind.word: "entity" for kind in EntityKind}


def opened(sealer: Sealer, sealed: bytes | None, owner: str) -> str:
    """A secret as it was declared; empty: none was."""
    return sealer.open(sealed, owner).decode() if sealed is not None else ""


def _told(values: Mapping[Any, Any], names: Iterable[str], secrets: Mapping[str, str] | None) -> dict[str, Any]:
    """For the audit log: what is sealed is not told, and what a provider is given is looked into."""
    told = {name: MASK if name in (secrets or {}) else values[name] for name in names}
    if "extra_specs" in told:
        told["extra_specs"] = msgspec.json.decode(told["extra_specs"])
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in told.items()}
