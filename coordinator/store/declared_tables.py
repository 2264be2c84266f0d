"""The tables of what people declare. See `schema.py`."""

import sqlalchemy as sa

from coordinator.store.columns import (
    Names,
    Plain,
    count_column,
    id_column,
    made_columns,
    metadata,
    ref_column,
    resources_columns,
    text_column,
    time_column,
)

endpoints = sa.Table(
    "endpoints",
    metadata,
    id_column(),
    sa.Column("name", Plain, nullable=False, unique=True),
    text_column("kind"),
    sa.Column("base_url", Plain, nullable=False, unique=True),
    text_column("api_base_url"),
    # How many runners one credential may register there; 0: as many as it likes.
    sa.Column("registrations_per_minute", sa.Integer, nullable=False, server_default="0"),
    sa.Column("upload_base_url", Plain, nullable=False, server_default=""),
    sa.Column("ca_bundle", sa.LargeBinary, nullable=True),  # sealed: nobody but us says whom we trust
    sa.Column("tools_metadata_url", Plain, nullable=False, server_default=""),
    sa.Column("use_internal_tools_metadata", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("description", Plain, nullable=False, server_default=""),
    *made_columns(),
)

credentials = sa.Table(
    "credentials",
    metadata,
    id_column(),
    sa.Column("name", Plain, nullable=False, unique=True),
    ref_column("endpoint_id", "endpoints"),
    sa.Column("token", sa.LargeBinary, nullable=False),  # sealed; of an App its private key
    sa.Column("auth", Plain, nullable=False, server_default="pat"),
    sa.Column("app_id", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("installation_id", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("number", sa.Integer, nullable=False, server_default="0"),  # what clients of the REST API call them by
    sa.Column("description", Plain, nullable=False, server_default=""),
    *made_columns(),
    sa.Index(None, "number", unique=True),
)

entities = sa.Table(
    "entities",
    metadata,
    id_column(),
    ref_column("endpoint_id", "endpoints"),
    text_column("kind"),
    text_column("owner"),
    text_column("name"),
    ref_column("credentials_id", "credentials"),
    sa.Column("webhook_secret", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("weight", sa.Float, nullable=False, server_default="1"),
    sa.Column("quota", sa.Integer, nullable=True),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("label_priorities", Plain, nullable=False, server_default="{}"),  # JSON: label to priority
    sa.Column("balancer", Plain, nullable=False, server_default="roundrobin"),
    *made_columns(),
    sa.UniqueConstraint("endpoint_id", "kind", "owner", "name"),
)

flavors = sa.Table(
    "flavors", metadata, id_column(), sa.Column("name", Plain, nullable=False, unique=True), *resources_columns()
)

pools = sa.Table(
    "pools",
    metadata,
    id_column(),
    text_column("name"),
    ref_column("entity_id", "entities"),
    text_column("provider"),
    text_column("image"),
    text_column("flavor"),
    text_column("arch"),
    text_column("os_type"),
    sa.Column("labels", Names, nullable=False),
    count_column("max_runners"),
    sa.Column("enabled", sa.Boolean, nullable=False),
    count_column("priority"),
    text_column("runner_prefix"),
    text_column("runner_group"),
    count_column("bootstrap_timeout_seconds"),
    text_column("extra_specs"),
    sa.Column("min_idle", sa.Integer, nullable=False, server_default="0"),
    sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
    sa.Column("placement", Plain, nullable=False, server_default="spread"),
    sa.Column("share_hosts", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("network_policy", sa.Text, nullable=False, server_default="internet"),
    sa.Column("network_allow", sa.Text, nullable=False, server_default="[]"),  # JSON: list of entries
    ref_column("template_id", "templates", nullable=True),  # none: what comes with Hostler
    ref_column("proxy_id", "proxies", nullable=True),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    time_column("cool_until", nullable=True),
    sa.Column("fault", Plain, nullable=False, server_default=""),
    *made_columns(),
    sa.UniqueConstraint("entity_id", "name"),
)

images = sa.Table(
    "images",
    metadata,
    id_column(),
    text_column("name"),
    text_column("arch"),
    text_column("url"),
    text_column("sha256"),
    text_column("format"),
    text_column("compression"),
    sa.UniqueConstraint("name", "arch"),
)

# What scale sets, templates and proxies are known by to clients is their number.
scale_sets = sa.Table(
    "scale_sets",
    metadata,
    id_column(),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    text_column("name"),
    ref_column("entity_id", "entities"),
    text_column("provider"),
    text_column("image"),
    text_column("flavor"),
    text_column("arch"),
    text_column("os_type"),
    sa.Column("labels", Names, nullable=False),
    count_column("max_runners"),
    sa.Column("enabled", sa.Boolean, nullable=False),
    text_column("runner_prefix"),
    text_column("runner_group"),
    count_column("bootstrap_timeout_seconds"),
    text_column("extra_specs"),
    count_column("min_idle"),
    sa.Column("disable_update", sa.Boolean, nullable=False),
    ref_column("template_id", "templates", nullable=True),  # none: what comes with Hostler
    ref_column("proxy_id", "proxies", nullable=True),
    sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
    *made_columns(),
    sa.UniqueConstraint("entity_id", "name"),
)

templates = sa.Table(
    "templates",
    metadata,
    id_column(),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    sa.Column("name", Plain, nullable=False, unique=True),
    text_column("description"),
    text_column("os_type"),
    text_column("forge"),
    sa.Column("data", sa.LargeBinary, nullable=False),  # sealed: people write secrets into scripts
    *made_columns(),
)

proxies = sa.Table(
    "proxies",
    metadata,
    id_column(),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    sa.Column("name", Plain, nullable=False, unique=True),
    text_column("description"),
    text_column("http_proxy"),
    text_column("https_proxy"),
    text_column("no_proxy"),
    text_column("username"),
    sa.Column("password", sa.LargeBinary, nullable=True),  # sealed; none: there is none
    *made_columns(),
)
