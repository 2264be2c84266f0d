"""The tables. Migrations in `migrations/` lead to exactly this; a test compares the two."""

from typing import Final

import sqlalchemy as sa

from coordinator.store.columns import (
    Names,
    Plain,
    count_column,
    id_column,
    metadata,
    ref_column,
    resources_columns,
    text_column,
    time_column,
)
from coordinator.store.declared_tables import (
    credentials,
    endpoints,
    entities,
    flavors,
    images,
    pools,
    proxies,
    scale_sets,
    templates,
)

__all__ = [
    "admin_tokens",
    "audit",
    "audit_head",
    "authority",
    "consoles",
    "controller",
    "coordinators",
    "credentials",
    "endpoints",
    "enrolments",
    "entities",
    "flavors",
    "host_images",
    "hosts",
    "images",
    "instances",
    "invitations",
    "jobs",
    "metadata",
    "planning_lease",
    "pools",
    "proxies",
    "scale_sets",
    "signing_keys",
    "templates",
    "timeline",
    "users",
]

# One row: who this installation is, and the keys that only it may know.
controller = sa.Table(
    "controller",
    metadata,
    id_column(),
    sa.Column("instance_token_key", sa.LargeBinary, nullable=False),  # sealed
    time_column("created_at"),
    # Set by people while it runs; empty: as configured.
    sa.Column("metadata_url", Plain, nullable=False, server_default=""),
    sa.Column("callback_url", Plain, nullable=False, server_default=""),
    sa.Column("webhook_url", Plain, nullable=False, server_default=""),
    # How long a job waits before a machine is made for it, in seconds.
    sa.Column("ca_bundle", Plain, nullable=False, server_default=""),
    sa.Column("minimum_job_age_backoff", sa.Integer, nullable=False, server_default="0"),
)

# How it stands with a content on a host, whether or not the catalogue still has it.
host_images = sa.Table(
    "host_images",
    metadata,
    sa.Column("host", Plain, primary_key=True),
    sa.Column("sha256", Plain, primary_key=True),
    text_column("state"),
    time_column("changed_at"),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    text_column("error_code"),
    text_column("detail"),
    count_column("failures"),
    time_column("cool_until", nullable=True),
    sa.Index(None, "state"),
)

hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("name", Plain, primary_key=True),
    text_column("arch"),
    *resources_columns(),
    text_column("drivers"),  # JSON: driver to {acceleration, images}
    text_column("agent_version"),
    time_column("last_seen"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    time_column("cool_until", nullable=True),
    # Which coordinator holds its stream (empty: none), that stream's number there, and the agent's process on it.
    sa.Column("coordinator", Plain, nullable=False, server_default=""),
    sa.Column("stream", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("agent_run", Plain, nullable=False, server_default=""),
    time_column("disconnected_at", nullable=True),  # of one that is away: since when a coordinator has missed it
    sa.Column("admission", Plain, nullable=False, server_default="open"),
    sa.Column("admission_reason", Plain, nullable=False, server_default=""),
    time_column("drain_deadline", nullable=True),
    # What its agent says that it is short of: code and text, empty when of nothing.
    sa.Column("pressure_code", Plain, nullable=False, server_default=""),
    sa.Column("pressure", Plain, nullable=False, server_default=""),
)

# Processes that serve this installation. Times are the database's, in microseconds since 1970.
coordinators = sa.Table(
    "coordinators",
    metadata,
    id_column(),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)

# One row: who plans. The fencing number counts holders.
planning_lease = sa.Table(
    "planning_lease",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    text_column("holder"),
    sa.Column("fencing", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    id_column(),
    ref_column("endpoint_id", "endpoints"),
    sa.Column("forge_job_id", sa.BigInteger, nullable=False),
    count_column("attempt"),
    ref_column("entity_id", "entities"),
    text_column("status"),
    sa.Column("labels", Names, nullable=False),
    text_column("name"),
    text_column("workflow"),
    sa.Column("run_id", sa.BigInteger, nullable=False),
    time_column("queued_at"),
    time_column("changed_at"),
    text_column("runner_name"),
    text_column("instance_id"),
    text_column("conclusion"),
    text_column("html_url"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    time_column("retry_at", nullable=True),
    sa.Column("fault", Plain, nullable=False, server_default=""),
    sa.UniqueConstraint("endpoint_id", "forge_job_id", "attempt", "entity_id"),
    sa.Index(None, "status", "entity_id"),
    # The few that machines came to nothing for: they are looked for whenever a runner comes online.
    sa.Index("ix_jobs_tried", "entity_id", sqlite_where=sa.text("tries > 0"), postgresql_where=sa.text("tries > 0")),
)

instances = sa.Table(
    "instances",
    metadata,
    id_column(),
    sa.Column("name", Plain, nullable=False, unique=True),
    ref_column("pool_id", "pools"),
    ref_column("entity_id", "entities"),
    text_column("provider"),
    text_column("host"),
    text_column("image"),
    *resources_columns(),
    sa.Column("labels", Names, nullable=False),
    text_column("status"),
    text_column("runner_status"),
    count_column("generation"),
    time_column("created_at"),
    time_column("changed_at"),
    time_column("bootstrap_deadline"),
    time_column("idle_since", nullable=True),
    text_column("job_id"),
    text_column("provider_id"),
    sa.Column("forge_runner_id", sa.BigInteger, nullable=False),
    text_column("fault"),
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
    text_column("job_id"),
    text_column("instance_id"),
    text_column("step"),
    time_column("at"),
    text_column("detail"),
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
    id_column(),
    text_column("certificate"),  # PEM
    sa.Column("key", sa.LargeBinary, nullable=False),  # sealed
    time_column("created_at"),
)

invitations = sa.Table(
    "invitations",
    metadata,
    id_column(),
    text_column("host"),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    time_column("expires_at"),
    sa.Column("ended", Plain, nullable=False, server_default=""),  # how: used, withdrawn; empty: open
    time_column("ended_at", nullable=True),
    sa.Index(None, "host"),
)

# What a host's certificates come from. A host has at most one that has not ended.
enrolments = sa.Table(
    "enrolments",
    metadata,
    id_column(),
    text_column("host"),
    time_column("enrolled_at"),
    sa.Column("ended", Plain, nullable=False, server_default=""),  # how: revoked, replaced; empty: it stands
    time_column("ended_at", nullable=True),
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
    id_column(),
    sa.Column("name", Plain, nullable=False, unique=True),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    time_column("made_at"),
    time_column("expires_at"),
    sa.Column("role", Plain, nullable=False, server_default="admin"),
)

users = sa.Table(
    "users",
    metadata,
    id_column(),
    sa.Column("username", Plain, nullable=False, unique=True),
    text_column("email"),
    text_column("full_name"),
    text_column("password_hash"),  # argon2id, with its parameters
    text_column("role"),
    sa.Column("enabled", sa.Boolean, nullable=False),
    count_column("generation"),  # sessions of an older one are over
    time_column("created_at"),
    time_column("changed_at"),
)

# One for each purpose; instances' is in `controller`.
signing_keys = sa.Table(
    "signing_keys",
    metadata,
    id_column(),
    sa.Column("purpose", Plain, nullable=False, unique=True),
    sa.Column("key", sa.LargeBinary, nullable=False),  # sealed
    time_column("created_at"),
)

# Append-only; accounts/chain.py says what `mac` covers.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    time_column("at"),
    text_column("actor"),
    text_column("via"),
    text_column("action"),
    text_column("target"),
    text_column("before"),
    text_column("after"),
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
