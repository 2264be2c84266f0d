"""What columns are made of: types that both engines keep alike, and the columns that many tables have."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from coordinator.domain.resources import Devices, devices

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime as microseconds since 1970: exact, sortable and the same in both engines."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Any) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


class Names(TypeDecorator[frozenset[str]]):
    """A set of short strings as sorted JSON."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: frozenset[str] | None, dialect: Any) -> str | None:
        return None if value is None else msgspec.json.encode(sorted(value)).decode()

    def process_result_value(self, value: Any, dialect: Any) -> frozenset[str] | None:
        return None if value is None else frozenset(msgspec.json.decode(value, type=list[str]))


class Counts(TypeDecorator[Devices]):
    """Devices by kind as a JSON object."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Devices | None, dialect: Any) -> str | None:
        return None if value is None else msgspec.json.encode(dict(value)).decode()

    def process_result_value(self, value: Any, dialect: Any) -> Devices | None:
        if value is None or value == "{}":
            return ()
        return devices(msgspec.json.decode(value, type=dict[str, int]))


class Plain(TypeDecorator[str]):
    """Text from outside, without the NUL characters that PostgreSQL refuses."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.replace("\0", "")


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def id_column() -> sa.Column[str]:
    return sa.Column("id", sa.String(36), primary_key=True)


def ref_column(name: str, table: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(36), sa.ForeignKey(f"{table}.id"), nullable=nullable)


def text_column(name: str) -> sa.Column[str]:
    return sa.Column(name, Plain, nullable=False)


def count_column(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def time_column(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, UtcTime, nullable=nullable)


def made_columns() -> list[sa.Column[Any]]:
    """When a declared object was first declared, and last changed."""
    return [sa.Column(name, UtcTime, nullable=False, server_default="0") for name in ("created_at", "changed_at")]


def resources_columns() -> list[sa.Column[Any]]:
    counted = sa.Column("devices", Counts, nullable=False, server_default="{}")
    return [count_column("vcpus"), count_column("memory_mib"), count_column("disk_gib"), counted]
