"""A row of what is declared, as somebody would declare it. Holds secrets."""

from collections.abc import Callable, Mapping
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
from coordinator.declare_plan import AnyDeclared
from coordinator.declare_text import ProxyDeclaration, TemplateDeclaration
from coordinator.domain.fleet import AuthKind, Balancer, EntityKind, ForgeKind, Placement
from coordinator.store.applying import KeptDeclared
from coordinator.store.rows import entity_name
from coordinator.store.schema import credentials, endpoints, entities, flavors, images, pools, templates
from coordinator.store.sealing import Sealer
from coordinator.store.writing import opened, seal_owner
from hostler.images import Compression, ImageFormat
from hostler.network import NetworkPolicy

Row = sa.Row[Any]


async def of(connection: AsyncConnection, kind: str, row: Row, sealer: Sealer) -> AnyDeclared | KeptDeclared:
    """
    Args:
        kind: as Edits calls it.
    """
    if kind in _OF_ROW:
        column, read = _OF_ROW[kind]
        return read(row, opened(sealer, getattr(row, column), seal_owner(kind, row.id)))
    if kind in ("pool", "scale set"):
        entity = (await connection.execute(sa.select(entities).where(entities.c.id == row.entity_id))).one()
        template = await _name(connection, templates, row.template_id) if row.template_id else ""
        made_of = _made_of(row, entity, await _name(connection, endpoints, entity.endpoint_id), template)
        return _pool(row, made_of) if kind == "pool" else _scale_set(row, made_of)
    endpoint = await _name(connection, endpoints, row.endpoint_id)
    if kind == "credentials":
        return _credentials(row, endpoint, _token(row, sealer))
    return _entity(row, endpoint, await _name(connection, credentials, row.credentials_id), _secret(row, sealer))


async def everything(connection: AsyncConnection, sealer: Sealer) -> dict[str, dict[str, AnyDeclared]]:
    """All there is: by the table of a document that declares it, then by its row's id."""
    endpoint_rows = await _rows(connection, endpoints)
    secret_rows = await _rows(connection, credentials)
    entity_rows = await _rows(connection, entities)
    endpoint = {row_id: row.name for row_id, row in endpoint_rows.items()}
    secret = {row_id: row.name for row_id, row in secret_rows.items()}
    template = {row_id: row.name for row_id, row in (await _rows(connection, templates)).items()}
    found: dict[str, dict[str, AnyDeclared]] = {
        "endpoint": {row_id: _endpoint(row, _bundle(row, sealer)) for row_id, row in endpoint_rows.items()},
        "credentials": {
            row_id: _credentials(row, endpoint[row.endpoint_id], _token(row, sealer))
            for row_id, row in secret_rows.items()
        },
        "flavor": {row_id: _flavor(row) for row_id, row in (await _rows(connection, flavors)).items()},
        "image": {row_id: _image(row) for row_id, row in (await _rows(connection, images)).items()},
        **{kind.table: {} for kind in EntityKind},
        "pool": {
            row_id: _pool(
                row,
                _made_of(
                    row,
                    entity_rows[row.entity_id],
                    endpoint[entity_rows[row.entity_id].endpoint_id],
                    template.get(row.template_id, ""),
                ),
            )
            for row_id, row in (await _rows(connection, pools)).items()
        },
    }
    for row_id, row in entity_rows.items():
        declared = _entity(row, endpoint[row.endpoint_id], secret[row.credentials_id], _secret(row, sealer))
        found[EntityKind(row.kind).table][row_id] = declared
    return found


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


def _credentials(row: Row, endpoint: str, secret: str) -> CredentialsDeclaration:
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


def _secret(row: Row, sealer: Sealer) -> str:
    return sealer.open(row.webhook_secret, seal_owner(EntityKind(row.kind).word, row.id)).decode()


def _flavor(row: Row) -> FlavorDeclaration:
    return FlavorDeclaration(row.name, row.vcpus, row.memory_mib, row.disk_gib, dict(row.devices))


def _image(row: Row) -> ImageDeclaration:
    return ImageDeclaration(
        row.name, row.url, row.sha256, row.arch, ImageFormat(row.format), Compression(row.compression)
    )


def _entity(row: Row, endpoint: str, credentials_name: str, secret: str) -> EntityDeclaration:
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


def _made_of(row: Row, entity: Row, endpoint: str, template: str) -> dict[str, object]:
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
        template=template,
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


def _proxy(row: Row, password: str) -> ProxyDeclaration:
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
_OF_ROW: Final[Mapping[str, tuple[str, Callable[[Row, str], AnyDeclared | KeptDeclared]]]] = {
    "endpoint": ("ca_bundle", _endpoint),
    "template": ("data", _template),
    "proxy": ("password", _proxy),
}
