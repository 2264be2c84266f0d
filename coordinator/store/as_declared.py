"""A row of what is declared, as somebody would declare it. Holds secrets."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.declare import (
    CredentialsDeclaration,
    EndpointDeclaration,
    EntityDeclaration,
    FlavorDeclaration,
    ImageDeclaration,
    PoolDeclaration,
    ScaleSetDeclaration,
    declaration,
)
from coordinator.declare_entity import BY_KIND, keys_of, owner_keys
from coordinator.declare_plan import KINDS, AnyDeclared, Identity
from coordinator.declare_text import ProxyDeclaration, TemplateDeclaration
from coordinator.domain.fleet import AuthKind, Balancer, EntityKind, ForgeKind, Placement
from coordinator.store.rows import entity_name
from coordinator.store.schema import (
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
from coordinator.store.sealing import Sealer
from coordinator.store.writing import opened, seal_owner
from hostler.images import Compression, ImageFormat
from hostler.network import NetworkPolicy

Row = sa.Row[Any]


async def of(connection: AsyncConnection, kind: str, row: Row, sealer: Sealer) -> AnyDeclared:
    """
    Args:
        kind: as Edits calls it.
    """
    if kind in _OF_ROW:
        column, read = _OF_ROW[kind]
        return read(row, opened(sealer, getattr(row, column), seal_owner(kind, row.id)))
    if kind in ("pool", "scale set"):
        entity = (await connection.execute(sa.select(entities).where(entities.c.id == row.entity_id))).one()
        named = {
            key: await _name(connection, table, row_id) if (row_id := getattr(row, f"{key}_id")) else ""
            for key, table in _NAMED.items()
        }
        made_of = _made_of(row, entity, await _name(connection, endpoints, entity.endpoint_id), named)
        return _pool(row, made_of) if kind == "pool" else _scale_set(row, made_of)
    endpoint = await _name(connection, endpoints, row.endpoint_id)
    if kind == "credentials":
        return _credentials(row, endpoint, _token(row, sealer))
    return _entity(row, endpoint, await _name(connection, credentials, row.credentials_id), _secret(row, sealer))


async def everything(
    connection: AsyncConnection, sealer: Sealer, only: Collection[tuple[str, Identity]] | None = None
) -> dict[str, dict[str, AnyDeclared]]:
    """All there is: by the table of a document that declares it, then by its row's id.

    Args:
        only: whose secrets are opened, by table and identity; None: everybody's.
    """
    reading = _Reading(sealer, only)
    endpoint_rows = await _rows(connection, endpoints)
    secret_rows = await _rows(connection, credentials)
    entity_rows = await _rows(connection, entities)
    endpoint = {row_id: row.name for row_id, row in endpoint_rows.items()}
    secret = {row_id: row.name for row_id, row in secret_rows.items()}
    names = {
        key: {row_id: row.name for row_id, row in (await _rows(connection, table)).items()}
        for key, table in _NAMED.items()
    }

    def made_of(row: Row) -> dict[str, object]:
        entity = entity_rows[row.entity_id]
        named = {key: known.get(getattr(row, f"{key}_id"), "") for key, known in names.items()}
        return _made_of(row, entity, endpoint[entity.endpoint_id], named)

    found: dict[str, dict[str, AnyDeclared]] = {
        "endpoint": {row_id: _endpoint(row, _bundle(row, sealer)) for row_id, row in endpoint_rows.items()},
        "credentials": {
            row_id: reading.credentials(row, endpoint[row.endpoint_id]) for row_id, row in secret_rows.items()
        },
        "flavor": {row_id: _flavor(row) for row_id, row in (await _rows(connection, flavors)).items()},
        "image": {row_id: _image(row) for row_id, row in (await _rows(connection, images)).items()},
        "template": {
            row_id: _template(row, opened(sealer, row.data, seal_owner("template", row_id)))
            for row_id, row in (await _rows(connection, templates)).items()
        },
        "proxy": {row_id: reading.proxy(row) for row_id, row in (await _rows(connection, proxies)).items()},
        **{kind.table: {} for kind in EntityKind},
        "pool": {row_id: _pool(row, made_of(row)) for row_id, row in (await _rows(connection, pools)).items()},
        "scale_set": {
            row_id: _scale_set(row, made_of(row)) for row_id, row in (await _rows(connection, scale_sets)).items()
        },
    }
    for row_id, row in entity_rows.items():
        declared = reading.entity(row, endpoint[row.endpoint_id], secret[row.credentials_id])
        found[EntityKind(row.kind).table][row_id] = declared
    return found


class _Reading:
    """Reads rows that have a secret, and opens it where somebody asks for it."""

    def __init__(self, sealer: Sealer, only: Collection[tuple[str, Identity]] | None) -> None:
        self._sealer = sealer
        self._only = only

    def _opens(self, table: str, declared: AnyDeclared) -> bool:
        return self._only is None or (table, KINDS[table].identify(declared)) in self._only

    def credentials(self, row: Row, endpoint: str) -> AnyDeclared:
        made = _credentials(row, endpoint, None)
        return _credentials(row, endpoint, _token(row, self._sealer)) if self._opens("credentials", made) else made

    def proxy(self, row: Row) -> AnyDeclared:
        made = _proxy(row, None)
        return _proxy(row, _password(row, self._sealer)) if self._opens("proxy", made) else made

    def entity(self, row: Row, endpoint: str, credentials_name: str) -> AnyDeclared:
        made = _entity(row, endpoint, credentials_name, None)
        if not self._opens(EntityKind(row.kind).table, made):
            return made
        return _entity(row, endpoint, credentials_name, _secret(row, self._sealer))


async def _rows(connection: AsyncConnection, table: sa.Table) -> dict[str, Row]:
    order = [table.c[key] for key in ("owner", "name", "arch", "id") if key in table.c]
    return {row.id: row for row in await connection.execute(sa.select(table).order_by(*order))}


async def _name(connection: AsyncConnection, table: sa.Table, row_id: str) -> str:
    return str((await connection.execute(sa.select(table.c.name).where(table.c.id == row_id))).scalar_one())


def _endpoint(row: Row, ca_bundle: str) -> EndpointDeclaration:
    return EndpointDeclaration(
        name=row.name,
        base_url=row.base_url,
        api_base_url=row.api_base_url,
        kind=ForgeKind(row.kind),
        registrations_per_minute=row.registrations_per_minute,
        upload_base_url=row.upload_base_url,
        description=row.description,
        ca_bundle=ca_bundle,
        tools_metadata_url=row.tools_metadata_url,
        use_internal_tools_metadata=row.use_internal_tools_metadata,
    )


def _credentials(row: Row, endpoint: str, secret: str | None) -> CredentialsDeclaration:
    return CredentialsDeclaration(
        name=row.name,
        endpoint=endpoint,
        description=row.description,
        app_id=row.app_id,
        installation_id=row.installation_id,
        **{"private_key" if row.auth == AuthKind.APP else "token": secret},
    )


def _bundle(row: Row, sealer: Sealer) -> str:
    return opened(sealer, row.ca_bundle, seal_owner("endpoint", row.id))


def _token(row: Row, sealer: Sealer) -> str:
    return sealer.open(row.token, seal_owner("credentials", row.id)).decode()


def _password(row: Row, sealer: Sealer) -> str:
    return opened(sealer, row.password, seal_owner("proxy", row.id))


def _secret(row: Row, sealer: Sealer) -> str:
    return sealer.open(row.webhook_secret, seal_owner(EntityKind(row.kind).word, row.id)).decode()


def _flavor(row: Row) -> FlavorDeclaration:
    return FlavorDeclaration(row.name, row.vcpus, row.memory_mib, row.disk_gib, dict(row.devices))


def _image(row: Row) -> ImageDeclaration:
    return ImageDeclaration(
        row.name, row.url, row.sha256, row.arch, ImageFormat(row.format), Compression(row.compression)
    )


def _entity(row: Row, endpoint: str, credentials_name: str, secret: str | None) -> EntityDeclaration:
    values: dict[str, object] = {
        "endpoint": endpoint,
        "credentials": credentials_name,
        "webhook_secret": secret,
        "weight": row.weight,
        "quota": row.quota,
        "priority": row.priority,
        "label_priorities": msgspec.json.decode(row.label_priorities, type=dict[str, int]),
        "balancer": Balancer(row.balancer),
    }
    named = entity_name(row)
    return declaration(BY_KIND[named.kind], values | keys_of(named))


_NAMED: Final = {"template": templates, "proxy": proxies}  # by whoever makes machines, if they like


def _made_of(row: Row, entity: Row, endpoint: str, named: Mapping[str, str]) -> dict[str, object]:
    return dict[str, object](
        name=row.name,
        endpoint=endpoint,
        provider=row.provider,
        image=row.image,
        flavor=row.flavor,
        labels=sorted(row.labels),
        max_runners=row.max_runners,
        enabled=row.enabled,
        arch=row.arch,
        os_type=row.os_type,
        runner_prefix=row.runner_prefix,
        runner_group=row.runner_group,
        bootstrap_timeout_minutes=row.bootstrap_timeout_seconds // 60,
        extra_specs=msgspec.json.decode(row.extra_specs),
        min_idle_runners=row.min_idle,
        **named,
        **owner_keys(entity_name(entity)),
    )


def _pool(row: Row, made_of: dict[str, object]) -> PoolDeclaration:
    values = dict[str, object](
        priority=row.priority,
        placement=Placement(row.placement),
        share_hosts=row.share_hosts,
        network_policy=NetworkPolicy(row.network_policy),
        network_allow=msgspec.json.decode(row.network_allow, type=list[str]),
    )
    return declaration(PoolDeclaration, values | made_of)


def _template(row: Row, data: str) -> TemplateDeclaration:
    return TemplateDeclaration(
        name=row.name, description=row.description, os_type=row.os_type, forge=ForgeKind(row.forge), data=data
    )


def _proxy(row: Row, password: str | None) -> ProxyDeclaration:
    return ProxyDeclaration(
        name=row.name,
        description=row.description,
        http_proxy=row.http_proxy,
        https_proxy=row.https_proxy,
        no_proxy=row.no_proxy,
        username=row.username,
        password=password,
    )


def _scale_set(row: Row, made_of: dict[str, object]) -> ScaleSetDeclaration:
    return declaration(ScaleSetDeclaration, made_of | {"disable_update": row.disable_update})


# By kind of those that refer to no others: the sealed column, and what reads a row with that opened.
_OF_ROW: Final[Mapping[str, tuple[str, Callable[[Row, str], AnyDeclared]]]] = {
    "endpoint": ("ca_bundle", _endpoint),
    "template": ("data", _template),
    "proxy": ("password", _proxy),
}
