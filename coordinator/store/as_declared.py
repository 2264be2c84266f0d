"""A row of what is declared, as somebody would declare it. Holds secrets."""

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.declare import (
    CredentialsDeclaration,
    Declared,
    EndpointDeclaration,
    PoolDeclaration,
    RepositoryDeclaration,
)
from coordinator.domain.fleet import Balancer, ForgeKind, Placement
from coordinator.store.schema import credentials, endpoints, entities
from coordinator.store.sealing import Sealer
from coordinator.store.writing import seal_owner
from hostler.network import NetworkPolicy

Row = sa.Row[Any]


async def of(connection: AsyncConnection, kind: str, row: Row, sealer: Sealer) -> Declared:
    """
    Args:
        kind: endpoint, credentials, repository or pool.
    """
    if kind == "endpoint":
        return _endpoint(row)
    if kind == "pool":
        entity = (await connection.execute(sa.select(entities).where(entities.c.id == row.entity_id))).one()
        return _pool(row, entity, await _name(connection, endpoints, entity.endpoint_id))
    endpoint = await _name(connection, endpoints, row.endpoint_id)
    if kind == "credentials":
        token = sealer.open(row.token, seal_owner(kind, row.id)).decode()
        return CredentialsDeclaration(row.name, endpoint, token, row.description)
    secret = sealer.open(row.webhook_secret, seal_owner(kind, row.id)).decode()
    return _repository(row, endpoint, await _name(connection, credentials, row.credentials_id), secret)


async def _name(connection: AsyncConnection, table: sa.Table, row_id: str) -> str:
    return str((await connection.execute(sa.select(table.c.name).where(table.c.id == row_id))).scalar_one())


def _endpoint(row: Row) -> EndpointDeclaration:
    return EndpointDeclaration(
        name=row.name,
        base_url=row.base_url,
        api_base_url=row.api_base_url,
        kind=ForgeKind(row.kind),
        registrations_per_minute=row.registrations_per_minute,
        upload_base_url=row.upload_base_url,
        description=row.description,
    )


def _repository(row: Row, endpoint: str, credentials_name: str, secret: str) -> RepositoryDeclaration:
    return RepositoryDeclaration(
        endpoint=endpoint,
        owner=row.owner,
        name=row.name,
        credentials=credentials_name,
        webhook_secret=secret,
        weight=row.weight,
        quota=row.quota,
        priority=row.priority,
        label_priorities=msgspec.json.decode(row.label_priorities, type=dict[str, int]),
        balancer=Balancer(row.balancer),
    )


def _pool(row: Row, entity: Row, endpoint: str) -> PoolDeclaration:
    return PoolDeclaration(
        name=row.name,
        endpoint=endpoint,
        repository=f"{entity.owner}/{entity.name}",
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
