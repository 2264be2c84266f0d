"""What a GARM has that can be moved over, wherever it was read. Holds secrets."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

EntityTable = Literal["repository", "organization", "enterprise", "forge_instance"]


class GarmEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    forge: str  # github or gitea
    base_url: str
    api_base_url: str
    upload_base_url: str = ""
    description: str = ""
    ca_bundle: str = ""  # PEM
    tools_metadata_url: str = ""
    use_internal_tools_metadata: bool = False


class GarmCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """`None`: it was not told."""

    name: str
    forge: str
    endpoint: str
    auth: str  # pat or app
    description: str = ""
    token: str | None = None
    app_id: int | None = None
    installation_id: int | None = None
    private_key: str | None = None  # PEM


class GarmEntity(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    table: EntityTable
    endpoint: str
    forge: str
    credentials: str
    owner: str = ""  # of a repository
    name: str = ""
    webhook_secret: str | None = None
    balancer: str = ""
    agent_mode: bool = False


class GarmMaking(msgspec.Struct, frozen=True, kw_only=True):
    """What pools and scale sets say of their runners."""

    entity_id: str
    provider: str
    image: str
    flavor: str
    os_type: str
    os_arch: str
    tags: tuple[str, ...] = ()
    enabled: bool
    max_runners: int
    min_idle_runners: int
    runner_prefix: str
    runner_group: str
    bootstrap_timeout_minutes: int
    extra_specs: Mapping[str, Any]
    template: str = ""  # that people made; empty: GARM's own
    proxy: str = ""
    shell: bool = False


class GarmPool(GarmMaking, frozen=True, kw_only=True):
    id: str
    priority: int


class GarmScaleSet(GarmMaking, frozen=True, kw_only=True):
    name: str
    disable_update: bool = False


class GarmTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """One that people made."""

    name: str
    description: str
    os_type: str
    forge: str
    data: str  # of Go's text/template


class GarmProxy(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    username: str = ""
    password: str | None = None


class GarmFleet(msgspec.Struct, frozen=True, kw_only=True):
    endpoints: tuple[GarmEndpoint, ...]
    credentials: tuple[GarmCredentials, ...]
    entities: tuple[GarmEntity, ...]
    pools: tuple[GarmPool, ...]
    scale_sets: tuple[GarmScaleSet, ...]
    templates: tuple[GarmTemplate, ...]
    proxies: tuple[GarmProxy, ...]
