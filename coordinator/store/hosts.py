"""Hosts as their agents present themselves, and the consoles they send."""

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.fleet import Admission
from coordinator.domain.resources import Resources
from coordinator.store import changed
from coordinator.store.batch import Batcher
from coordinator.store.database import Database
from coordinator.store.enrolments import standing_among
from coordinator.store.retrying import retried
from coordinator.store.rows import DriverInfo, Row
from coordinator.store.schema import consoles, hosts
from hostler.errors import HostlerError

_NAMES_TOLD: Final = 20
_TOLD: Final = (
    "coordinator",
    "stream",
    "agent_run",
    "arch",
    "vcpus",
    "memory_mib",
    "disk_gib",
    "devices",
    "drivers",
    "agent_version",
    "last_seen",
    "disconnected_at",
    "pressure_code",
    "pressure",
)


class UnknownHost(HostlerError):
    """No agent has ever come with that host name, or it was removed."""

    code = "unknown_host"


class Pressure(msgspec.Struct, frozen=True):
    """What a host is short of, as its agent says: a code that programs may rely on, and a text for people."""

    code: str = ""  # empty: of nothing
    text: str = ""


class HostRecord(msgspec.Struct, frozen=True):
    name: str
    arch: str
    capacity: Resources
    drivers: Mapping[str, DriverInfo]
    agent_version: str
    last_seen: datetime
    connected: bool = False  # to any coordinator
    pressure: Pressure = Pressure()
    disconnected_at: datetime | None = None
    admission: Admission = Admission.OPEN
    admission_reason: str = ""
    drain_deadline: datetime | None = None

    @property
    def arches(self) -> frozenset[str]:
        """Those of the machines that can be made there, by any driver."""
        return frozenset({self.arch, *(arch for info in self.drivers.values() for arch in info.emulated)})


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
    enrolment: str


class Hosts:
    def __init__(self, database: Database, me: str, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._me = me
        self._clock = clock
        self._presented: Batcher[_Presented, bool] = Batcher(self._write_presented)

    async def present(self, host: HostRecord, stream: int, agent_run: str, enrolment: str = "") -> bool:
        """An agent has connected here: take what it says of its host. Whoever held an older stream lets go of it.

        Returns False when its enrolment has ended meanwhile, perhaps with the host itself: then nothing is taken.
        """
        return await self._presented.submit(_Presented(host, stream, agent_run, enrolment))

    @retried
    async def _write_presented(self, presented: Sequence[_Presented]) -> Sequence[bool]:
        async with self._database.write() as connection:
            standing = await standing_among(connection, {one.enrolment for one in presented}) | {""}
            newest = {one.host.name: one for one in presented if one.enrolment in standing}
            rows = [self._row(newest[name]) for name in sorted(newest)]  # two coordinators must not wait for each other
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
        return [one.enrolment in standing for one in presented]

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
            "disconnected_at": None,
            "pressure_code": host.pressure.code,
            "pressure": host.pressure.text,
        }

    async def left(self, name: str, stream: int, at: datetime) -> None:
        """A stream has ended here. Where the host has a newer one, nothing is changed."""
        gone = {"coordinator": "", "last_seen": at, "disconnected_at": self._clock()}
        await self._tell(name, stream, gone)

    async def press(self, name: str, stream: int, pressure: Pressure) -> None:
        """What the host is short of has changed."""
        await self._tell(name, stream, {"pressure_code": pressure.code, "pressure": pressure.text})

    @retried
    async def _tell(self, name: str, stream: int, values: Mapping[str, Any]) -> None:
        """Write what a stream tells of its host, if it is the newest of that host."""
        mine = (hosts.c.name == name) & (hosts.c.coordinator == self._me) & (hosts.c.stream == stream)
        async with self._database.write() as connection:
            written = await connection.execute(sa.update(hosts).where(mine).values(values))
            if written.rowcount:
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
            return [_record(row) for row in rows]

    async def one(self, name: str) -> HostRecord:
        """Raises UnknownHost: there is none of that name."""
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(hosts).where(hosts.c.name == name))).first()
            if row is None:
                await unknown(connection, name)
        return _record(row)

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


def _record(row: Row) -> HostRecord:
    return HostRecord(
        name=row.name,
        arch=row.arch,
        capacity=Resources(row.vcpus, row.memory_mib, row.disk_gib, row.devices),
        drivers=msgspec.json.decode(row.drivers, type=dict[str, DriverInfo]),
        agent_version=row.agent_version,
        last_seen=row.last_seen,
        connected=row.coordinator != "",
        pressure=Pressure(row.pressure_code, row.pressure),
        disconnected_at=row.disconnected_at,
        admission=Admission(row.admission),
        admission_reason=row.admission_reason,
        drain_deadline=row.drain_deadline,
    )


async def unknown(connection: AsyncConnection, name: str) -> NoReturn:
    """Raises UnknownHost, which tells the names of those that there are."""
    known = list(await connection.scalars(sa.select(hosts.c.name).order_by(hosts.c.name).limit(_NAMES_TOLD + 1)))
    more = ", …" if len(known) > _NAMES_TOLD else ""
    told = f"known are {', '.join(known[:_NAMES_TOLD])}{more}" if known else "no host has connected yet"
    raise UnknownHost(f"there is no host '{name}'", hint=told)
