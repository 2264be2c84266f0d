"""Scale sets, templates and proxies as they are shown, each list in the order of the numbers."""

from datetime import timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.labels import Labels
from coordinator.store.overview import Times
from coordinator.store.schema import proxies as proxies_table
from coordinator.store.schema import scale_sets as scale_sets_table
from coordinator.store.schema import templates as templates_table
from coordinator.store.sealing import Sealer
from coordinator.store.writing import opened, seal_owner


class KnownScaleSet(msgspec.Struct, frozen=True):
    id: str
    number: int
    name: str
    entity_id: str
    provider: str
    image: str
    flavor: str
    arch: str
    os_type: str
    labels: Labels
    max_runners: int
    min_idle: int
    enabled: bool
    runner_prefix: str
    runner_group: str
    bootstrap_timeout: timedelta
    extra_specs: str  # JSON
    disable_update: bool
    template_id: str | None  # of its row; None: what comes with Hostler
    proxy_id: str | None  # likewise; None: it has none
    generation: int
    times: Times


class KnownTemplate(msgspec.Struct, frozen=True):
    id: str
    number: int
    name: str
    description: str
    os_type: str
    forge: str
    times: Times


class KnownProxy(msgspec.Struct, frozen=True):
    id: str
    number: int
    name: str
    description: str
    http_proxy: str
    https_proxy: str
    no_proxy: str
    username: str
    times: Times


async def scale_sets(connection: AsyncConnection) -> list[KnownScaleSet]:
    found = await connection.execute(sa.select(scale_sets_table).order_by(scale_sets_table.c.number))
    return [
        KnownScaleSet(
            **_plain(row, KnownScaleSet),
            bootstrap_timeout=timedelta(seconds=row.bootstrap_timeout_seconds),
        )
        for row in found
    ]


async def templates(connection: AsyncConnection) -> list[KnownTemplate]:
    found = await connection.execute(sa.select(templates_table).order_by(templates_table.c.number))
    return [KnownTemplate(**_plain(row, KnownTemplate)) for row in found]


async def template_text(connection: AsyncConnection, sealer: Sealer, number: int) -> str | None:
    query = sa.select(templates_table.c.id, templates_table.c.data).where(templates_table.c.number == number)
    row = (await connection.execute(query)).first()
    return opened(sealer, row.data, seal_owner("template", row.id)) if row else None


async def proxies(connection: AsyncConnection) -> list[KnownProxy]:
    found = await connection.execute(sa.select(proxies_table).order_by(proxies_table.c.number))
    return [KnownProxy(**_plain(row, KnownProxy)) for row in found]


def _plain(row: sa.Row[Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The columns that a shape has by the same name, and its times."""
    values = row._asdict()
    named = {name: values[name] for name in kind.__struct_fields__ if name in values}
    return named | {"times": Times(values["created_at"], values["changed_at"])}
