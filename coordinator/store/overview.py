"""All that is declared, of one moment, for those who show it: without secrets, with descriptions and times."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.fleet import AuthKind, Endpoint, Entity, Pool
from coordinator.store.rows import POOL_QUERY, to_endpoint, to_entity, to_pool
from coordinator.store.schema import credentials, endpoints, entities, proxies, templates
from coordinator.store.sealing import Sealer
from coordinator.store.writing import opened, seal_owner


class Times(msgspec.Struct, frozen=True):
    created_at: datetime
    changed_at: datetime


class KnownEndpoint(msgspec.Struct, frozen=True):
    endpoint: Endpoint
    description: str
    upload_base_url: str
    tools_metadata_url: str
    use_internal_tools_metadata: bool
    times: Times


class KnownCredentials(msgspec.Struct, frozen=True):
    id: str
    number: int
    name: str
    description: str
    endpoint_id: str
    auth: AuthKind
    times: Times


class KnownEntity(msgspec.Struct, frozen=True):
    entity: Entity
    times: Times


class KnownPool(msgspec.Struct, frozen=True):
    pool: Pool
    template_id: str | None  # None: what comes with Hostler
    times: Times


class Numbered(NamedTuple):
    """What an install template or a proxy is known by."""

    number: int
    name: str


class Overview(msgspec.Struct, frozen=True):
    """Each by its id, in the order of names."""

    endpoints: Mapping[str, KnownEndpoint]
    credentials: Mapping[str, KnownCredentials]
    entities: Mapping[str, KnownEntity]
    pools: Mapping[str, KnownPool]
    templates: Mapping[str, Numbered]  # that people made
    proxies: Mapping[str, Numbered]


async def overview(connection: AsyncConnection, sealer: Sealer) -> Overview:
    """Of one moment where the transaction reads so."""
    by_name = sa.select(entities).order_by(entities.c.owner, entities.c.name)
    return Overview(
        endpoints={
            row.id: _endpoint(row, opened(sealer, row.ca_bundle, seal_owner("endpoint", row.id)))
            for row in await connection.execute(sa.select(endpoints).order_by(endpoints.c.name))
        },
        credentials={
            row.id: KnownCredentials(
                row.id, row.number, row.name, row.description, row.endpoint_id, AuthKind(row.auth), _times(row)
            )
            for row in await connection.execute(sa.select(credentials).order_by(credentials.c.name))
        },
        entities={row.id: KnownEntity(to_entity(row), _times(row)) for row in await connection.execute(by_name)},
        pools={
            row.id: KnownPool(to_pool(row), row.template_id, _times(row))
            for row in await connection.execute(POOL_QUERY)
        },
        templates=await _numbered(connection, templates),
        proxies=await _numbered(connection, proxies),
    )


async def _numbered(connection: AsyncConnection, table: sa.Table) -> dict[str, Numbered]:
    found = await connection.execute(sa.select(table.c.id, table.c.number, table.c.name).order_by(table.c.name))
    return {row.id: Numbered(row.number, row.name) for row in found}


def _endpoint(row: sa.Row[Any], ca_bundle: str) -> KnownEndpoint:
    return KnownEndpoint(
        endpoint=to_endpoint(row, ca_bundle),
        description=row.description,
        upload_base_url=row.upload_base_url,
        tools_metadata_url=row.tools_metadata_url,
        use_internal_tools_metadata=row.use_internal_tools_metadata,
        times=_times(row),
    )


def _times(row: sa.Row[Any]) -> Times:
    return Times(row.created_at, row.changed_at)
