"""The tables. Migrations in `migrations/` lead to exactly this; a test compares the two."""

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


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.String(36), primary_key=True)


def _ref(name: str, table: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(36), sa.ForeignKey(f"{table}.id"), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, Plain, nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _time(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, UtcTime, nullable=nullable)


def _made() -> list[sa.Column[Any]]:
    """When a declared object was first declared, and last changed."""
    return [sa.Column(name, UtcTime, nullable=False, server_default="0") for name in ("created_at", "changed_at")]


def _resources() -> list[sa.Column[Any]]:
    counted = sa.Column("devices", Counts, nullable=False, server_default="{}")
    return [_count("vcpus"), _count("memory_mib"), _count("disk_gib"), counted]


# One row: who this installation is, and the keys that only it may know.
controller = sa.Table(
    "controller",
    metadata,
    _id(),
    sa.Column("instance_token_key", sa.LargeBinary, nullable=False),  # sealed
    _time("created_at"),
    # Set by people while it runs; empty: as configured.
    sa.Column("metadata_url", Plain, nullable=False, server_default=""),
    sa.Column("callback_url", Plain, nullable=False, server_default=""),
    sa.Column("webhook_url", Plain, nullable=False, server_default=""),
)

endpoints = sa.Table(
    "endpoints",
    metadata,
    _id(),
    sa.Column("name", Plain, nullable=False, unique=True),
    _text("kind"),
    sa.Column("base_url", Plain, nullable=False, unique=True),
    _text("api_base_url"),
    # How many runners one credential may register there; 0: as many as it likes.
    sa.Column("registrations_per_minute", sa.Integer, nullable=False, server_default="0"),
    sa.Column("upload_base_url", Plain, nullable=False, server_default=""),
    sa.Column("description", Plain, nullable=False, server_default=""),
    *_made(),
)

credentials = sa.Table(
    "credentials",
    metadata,
    _id(),
    sa.Column("name", Plain, nullable=False, unique=True),
    _ref("endpoint_id", "endpoints"),
    sa.Column("token", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("number", sa.Integer, nullable=False, server_default="0"),  # what clients of the REST API call them by
    sa.Column("description", Plain, nullable=False, server_default=""),
    *_made(),
    sa.Index(None, "number", unique=True),
)

entities = sa.Table(
    "entities",
    metadata,
    _id(),
    _ref("endpoint_id", "endpoints"),
    _text("kind"),
    _text("owner"),
    _text("name"),
    _ref("credentials_id", "credentials"),
    sa.Column("webhook_secret", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("weight", sa.Float, nullable=False, server_default="1"),
    sa.Column("quota", sa.Integer, nullable=True),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("label_priorities", Plain, nullable=False, server_default="{}"),  # JSON: label to priority
    sa.Column("balancer", Plain, nullable=False, server_default="roundrobin"),
    *_made(),
    sa.UniqueConstraint("endpoint_id", "kind", "owner", "name"),
)

flavors = sa.Table("flavors", metadata, _id(), sa.Column("name", Plain, nullable=False, unique=True), *_resources())

pools = sa.Table(
    "pools",
    metadata,
    _id(),
    _text("name"),
    _ref("entity_id", "entities"),
    _text("provider"),
    _text("image"),
    _text("flavor"),
    _text("arch"),
    _text("os_type"),
    sa.Column("labels", Names, nullable=False),
    _count("max_runners"),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _count("priority"),
    _text("runner_prefix"),
    _text("runner_group"),
    _count("bootstrap_timeout_seconds"),
    _text("extra_specs"),
    sa.Column("min_idle", sa.Integer, nullable=False, server_default="0"),
    sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
    sa.Column("placement", Plain, nullable=False, server_default="spread"),
    sa.Column("share_hosts", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("network_policy", sa.Text, nullable=False, server_default="internet"),
    sa.Column("network_allow", sa.Text, nullable=False, server_default="[]"),  # JSON: list of entries
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    _time("cool_until", nullable=True),
    sa.Column("fault", Plain, nullable=False, server_default=""),
    *_made(),
    sa.UniqueConstraint("entity_id", "name"),
)

images = sa.Table(
    "images",
    metadata,
    _id(),
    _text("name"),
    _text("arch"),
    _text("url"),
    _text("sha256"),
    _text("format"),
    _text("compression"),
    sa.UniqueConstraint("name", "arch"),
)

# How it stands with a content on a host, whether or not the catalogue still has it.
host_images = sa.Table(
    "host_images",
    metadata,
    sa.Column("host", Plain, primary_key=True),
    sa.Column("sha256", Plain, primary_key=True),
    _text("state"),
    _time("changed_at"),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    _text("error_code"),
    _text("detail"),
    _count("failures"),
    _time("cool_until", nullable=True),
    sa.Index(None, "state"),
)

hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("name", Plain, primary_key=True),
    _text("arch"),
    *_resources(),
    _text("drivers"),  # JSON: driver to {acceleration, images}
    _text("agent_version"),
    _time("last_seen"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    _time("cool_until", nullable=True),
    # Which coordinator holds its stream (empty: none), that stream's number there, and the agent's process on it.
    sa.Column("coordinator", Plain, nullable=False, server_default=""),
    sa.Column("stream", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("agent_run", Plain, nullable=False, server_default=""),
    _time("disconnected_at", nullable=True),  # of one that is away: since when a coordinator has missed it
    sa.Column("admission", Plain, nullable=False, server_default="open"),
    sa.Column("admission_reason", Plain, nullable=False, server_default=""),
    _time("drain_deadline", nullable=True),
    # What its agent says that it is short of: code and text, empty when of nothing.
    sa.Column("pressure_code", Plain, nullable=False, server_default=""),
    sa.Column("pressure", Plain, nullable=False, server_default=""),
)

# Processes that serve this installation. Times are the database's, in microseconds since 1970.
coordinators = sa.Table(
    "coordinators",
    metadata,
    _id(),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)

# One row: who plans. The fencing number counts holders.
planning_lease = sa.Table(
    "planning_lease",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    _text("holder"),
    sa.Column("fencing", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    _id(),
    _ref("endpoint_id", "endpoints"),
    sa.Column("forge_job_id", sa.BigInteger, nullable=False),
    _count("attempt"),
    _ref("entity_id", "entities"),
    _text("status"),
    sa.Column("labels", Names, nullable=False),
    _text("name"),
    _text("workflow"),
    sa.Column("run_id", sa.BigInteger, nullable=False),
    _time("queued_at"),
    _time("changed_at"),
    _text("runner_name"),
    _text("instance_id"),
    _text("conclusion"),
    _text("html_url"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    _time("retry_at", nullable=True),
    sa.Column("fault", Plain, nullable=False, server_default=""),
    sa.UniqueConstraint("endpoint_id", "forge_job_id", "attempt", "entity_id"),
    sa.Index(None, "status", "entity_id"),
    # The few that machines came to nothing for: they are looked for whenever a runner comes online.
    sa.Index("ix_jobs_tried", "entity_id", sqlite_where=sa.text("tries > 0"), postgresql_where=sa.text("tries > 0")),
)

instances = sa.Table(
    "instances",
    metadata,
    _id(),
    sa.Column("name", Plain, nullable=False, unique=True),
    _ref("pool_id", "pools"),
    _ref("entity_id", "entities"),
    _text("provider"),
    _text("host"),
    _text("image"),
    *_resources(),
    sa.Column("labels", Names, nullable=False),
    _text("status"),
    _text("runner_status"),
    _count("generation"),
    _time("created_at"),
    _time("changed_at"),
    _time("bootstrap_deadline"),
    _time("idle_since", nullable=True),
    _text("job_id"),
    _text("provider_id"),
    sa.Column("forge_runner_id", sa.BigInteger, nullable=False),
    _text("fault"),
    sa.Column("pool_generation", sa.Integer, nullable=False, server_default="0"),
    sa.Column("for_job", Plain, nullable=False, server_default=""),
    sa.Column("os_name", Plain, nullable=False, server_default=""),
    sa.Column("os_version", Plain, nullable=False, server_default=""),
    # Sealed; emptied when the runner is up.
    sa.Column("runner_files", sa.LargeBinary, nullable=True),
    sa.Column("runner_files_taken", Names, nullable=False),
    sa.Index(None, "status"),
    sa.Index(None, "changed_at"),
    sa.Index(None, "host"),
)

REGISTERED: Final = sa.text("step = 'runner configured'")
"""In the words of its index: what the forges' limits are counted by."""

timeline = sa.Table(
    "timeline",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _text("job_id"),
    _text("instance_id"),
    _text("step"),
    _time("at"),
    _text("detail"),
    sa.Index(None, "job_id"),
    sa.Index(None, "instance_id"),
    sa.Index("ix_timeline_registered", "at", sqlite_where=REGISTERED, postgresql_where=REGISTERED),
)

consoles = sa.Table(
    "consoles",
    metadata,
    sa.Column("instance_id", sa.String(36), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),  # zlib
    sa.Column("truncated", sa.Boolean, nullable=False),
)

# One row: the coordinators' own CA.
authority = sa.Table(
    "authority",
    metadata,
    _id(),
    _text("certificate"),  # PEM
    sa.Column("key", sa.LargeBinary, nullable=False),  # sealed
    _time("created_at"),
)

invitations = sa.Table(
    "invitations",
    metadata,
    _id(),
    _text("host"),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    _time("expires_at"),
    sa.Column("ended", Plain, nullable=False, server_default=""),  # how: used, withdrawn; empty: open
    _time("ended_at", nullable=True),
    sa.Index(None, "host"),
)

# What a host's certificates come from. A host has at most one that has not ended.
enrolments = sa.Table(
    "enrolments",
    metadata,
    _id(),
    _text("host"),
    _time("enrolled_at"),
    sa.Column("ended", Plain, nullable=False, server_default=""),  # how: revoked, replaced; empty: it stands
    _time("ended_at", nullable=True),
    sa.Index(
        "ix_enrolments_standing",
        "host",
        unique=True,
        sqlite_where=sa.text("ended = ''"),
        postgresql_where=sa.text("ended = ''"),
    ),
)

admin_tokens = sa.Table(
    "admin_tokens",
    metadata,
    _id(),
    sa.Column("name", Plain, nullable=False, unique=True),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    _time("made_at"),
    _time("expires_at"),
    sa.Column("role", Plain, nullable=False, server_default="admin"),
)

users = sa.Table(
    "users",
    metadata,
    _id(),
    sa.Column("username", Plain, nullable=False, unique=True),
    _text("email"),
    _text("full_name"),
    _text("password_hash"),  # argon2id, with its parameters
    _text("role"),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _count("generation"),  # sessions of an older one are over
    _time("created_at"),
    _time("changed_at"),
)

# One for each purpose; instances' is in `controller`.
signing_keys = sa.Table(
    "signing_keys",
    metadata,
    _id(),
    sa.Column("purpose", Plain, nullable=False, unique=True),
    sa.Column("key", sa.LargeBinary, nullable=False),  # sealed
    _time("created_at"),
)

# Append-only; accounts/chain.py says what `mac` covers.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    _time("at"),
    _text("actor"),
    _text("via"),
    _text("action"),
    _text("target"),
    _text("before"),
    _text("after"),
    sa.Column("mac", sa.String(64), nullable=False),
)

# One row, locked by whoever appends.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("last", sa.String(64), nullable=False),
    sa.Column("mac", sa.String(64), nullable=False),
)
