"""Hosts as their agents present themselves, and the consoles they send."""

import zlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from coordinator.domain.resources import Resources
from coordinator.store import changed
from coordinator.store.batch import Batcher
from coordinator.store.database import Database
from coordinator.store.retrying import retried
from coordinator.store.rows import DriverInfo
from coordinator.store.schema import consoles, hosts

_TOLD: Final = (
    "coordinator",
    "stream",
    "agent_run",
    "arch",
    "vcpus",
    "memory_mib",
    "disk_gib",
    "drivers",
    "agent_version",
    "last_seen",
)


class HostRecord(msgspec.Struct, frozen=True):
    name: str
    arch: str
    capacity: Resources
    drivers: Mapping[str, DriverInfo]
    agent_version: str
    last_seen: datetime
    connected: bool = False  # to any coordinator


class Holder(msgspec.Struct, frozen=True):
    """Where the stream of a host is."""

    coordinator: str  # empty: nowhere
    stream: int
    agent_run: str


class _Presented(msgspec.Struct, frozen=True):
    """An agent that has just connected."""

    host: HostRecord
    stream: int
    agent_run: str


class Hosts:
    def __init__(self, database: Database, me: str) -> None:
        self._database = database
        self._me = me
        self._presented: Batcher[_Presented, None] = Batcher(self._write_presented)

    async def present(self, host: HostRecord, stream: int, agent_run: str) -> None:
        """An agent has connected here: take what it says of its host. Whoever held an older stream lets go of it."""
        await self._presented.submit(_Presented(host, stream, agent_run))

    @retried
    async def _write_presented(self, presented: Sequence[_Presented]) -> Sequence[None]:
        newest = {one.host.name: one for one in presented}
        rows = [self._row(newest[name]) for name in sorted(newest)]  # two coordinators must not wait for each other
        async with self._database.write() as connection:
            changed.of(connection).hosts.update(newest)
            known = set(await connection.scalars(sa.select(hosts.c.name).where(hosts.c.name.in_(newest))))
            old = [
                {"key": row["name"]} | {f"new_{name}": row[name] for name in _TOLD}
                for row in rows
                if row["name"] in known
            ]
            if old:
                values: dict[str, sa.BindParameter[object]] = {name: sa.bindparam(f"new_{name}") for name in _TOLD}
                await connection.execute(
                    sa.update(hosts).where(hosts.c.name == sa.bindparam("key")).values(values), old
                )
            new = [row for row in rows if row["name"] not in known]
            if new:
                await connection.execute(sa.insert(hosts), new)
        return [None] * len(presented)

    def _row(self, presented: _Presented) -> dict[str, Any]:
        host = presented.host
        return {
            "name": host.name,
            "coordinator": self._me,
            "stream": presented.stream,
            "agent_run": presented.agent_run,
            "arch": host.arch,
            **msgspec.structs.asdict(host.capacity),
            "drivers": msgspec.json.encode(host.drivers).decode(),
            "agent_version": host.agent_version,
            "last_seen": host.last_seen,
        }

    @retried
    async def left(self, name: str, stream: int, at: datetime) -> None:
        """A stream has ended here. Where the host has a newer one, nothing is changed."""
        mine = (hosts.c.name == name) & (hosts.c.coordinator == self._me) & (hosts.c.stream == stream)
        async with self._database.write() as connection:
            ended = await connection.execute(sa.update(hosts).where(mine).values(coordinator="", last_seen=at))
            if ended.rowcount:
                changed.of(connection).hosts.add(name)

    async def holders(self, names: Collection[str]) -> dict[str, Holder]:
        """Where the streams of these hosts are."""
        query = sa.select(hosts.c.name, hosts.c.coordinator, hosts.c.stream, hosts.c.agent_run)
        async with self._database.read() as connection:
            rows = await connection.execute(query.where(hosts.c.name.in_(names)))
            return {row.name: Holder(row.coordinator, row.stream, row.agent_run) for row in rows}

    async def all(self) -> list[HostRecord]:
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(hosts).order_by(hosts.c.name))
            return [
                HostRecord(
                    name=row.name,
                    arch=row.arch,
                    capacity=Resources(row.vcpus, row.memory_mib, row.disk_gib),
                    drivers=msgspec.json.decode(row.drivers, type=dict[str, DriverInfo]),
                    agent_version=row.agent_version,
                    last_seen=row.last_seen,
                    connected=row.coordinator != "",
                )
                for row in rows
            ]

    @retried
    async def keep_console(self, instance_id: str, data: bytes, *, truncated: bool) -> None:
        packed = zlib.compress(data)
        async with self._database.write() as connection:
            await connection.execute(sa.delete(consoles).where(consoles.c.instance_id == instance_id))
            await connection.execute(
                sa.insert(consoles).values(instance_id=instance_id, data=packed, truncated=truncated)
            )

    async def console(self, instance_id: str) -> tuple[bytes, bool] | None:
        """The kept console and whether its beginning is missing."""
        async with self._database.read() as connection:
            query = sa.select(consoles).where(consoles.c.instance_id == instance_id)
            row = (await connection.execute(query)).first()
        return (zlib.decompress(row.data), row.truncated) if row else None
