"""A row of what is declared, as somebody would declare it. Holds secrets."""

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.declare import (
    CredentialsDeclaration,
    Declared,
    EndpointDeclaration,
    EntityDeclaration,
    PoolDeclaration,
    declaration,
)
from coordinator.declare_entity import BY_KIND, keys_of, owner_keys
from coordinator.domain.fleet import AuthKind, Balancer, ForgeKind, Placement
from coordinator.store.rows import entity_name
from coordinator.store.schema import credentials, endpoints, entities
from coordinator.store.sealing import Sealer
from coordinator.store.writing import opened, seal_owner
from hostler.network import NetworkPolicy

Row = sa.Row[Any]


async def of(connection: AsyncConnection, kind: str, row: Row, sealer: Sealer) -> Declared:
    """
    Args:
        kind: endpoint, credentials, pool, or a kind of entity.
    """
    if kind == "endpoint":
        return _endpoint(row, opened(sealer, row.ca_bundle, seal_owner(kind, row.id)))
    if kind == "pool":
        entity = (await connection.execute(sa.select(entities).where(entities.c.id == row.entity_id))).one()
        return _pool(row, entity, await _name(connection, endpoints, entity.endpoint_id))
    endpoint = await _name(connection, endpoints, row.endpoint_id)
    if kind == "credentials":
        return _credentials(row, endpoint, sealer.open(row.token, seal_owner(kind, row.id)).decode())
    secret = sealer.open(row.webhook_secret, seal_owner(kind, row.id)).decode()
    return _entity(row, endpoint, await _name(connection, credentials, row.credentials_id), secret)


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


def _pool(row: Row, entity: Row, endpoint: str) -> PoolDeclaration:
    values = dict[str, object](
        name=row.name,
        endpoint=endpoint,
        provider=row.provider,
        image=row.image,
        flavor=row.flavor,
        labels=sorted(row.labels),
        max_runners=row.max_runners,
        enabled=row.enabled,
        priority=row.priority,
        arch=row.arch,
        os_type=row.os_type,
        runner_prefix=row.runner_prefix,
        runner_group=row.runner_group,
        bootstrap_timeout_minutes=row.bootstrap_timeout_seconds // 60,
        extra_specs=msgspec.json.decode(row.extra_specs),
        min_idle_runners=row.min_idle,
        placement=Placement(row.placement),
        share_hosts=row.share_hosts,
        network_policy=NetworkPolicy(row.network_policy),
        network_allow=msgspec.json.decode(row.network_allow, type=list[str]),
    )
    return declaration(PoolDeclaration, values | owner_keys(entity_name(entity)))
