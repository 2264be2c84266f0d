"""Counting failures of pools and hosts in a row, and their rests."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.cooldown import cooldown
from coordinator.store import changed
from coordinator.store.schema import hosts, pools


async def pool_failed(connection: AsyncConnection, pool_id: str, now: datetime, chance: float, fault: str) -> None:
    changed.of(connection).catalog = True
    await _failed(connection, pools, pools.c.id == pool_id, now, chance, {"fault": fault})


async def host_failed(connection: AsyncConnection, host: str, now: datetime, chance: float) -> None:
    changed.of(connection).hosts.add(host)
    await _failed(connection, hosts, hosts.c.name == host, now, chance)


async def succeeded(connection: AsyncConnection, pool_id: str, host: str) -> None:
    """A runner came online: its pool and its host are well."""
    await wake_pools(connection, [pool_id])
    of_host = await connection.execute(
        sa.update(hosts).where(hosts.c.name == host, hosts.c.failures > 0).values(failures=0, cool_until=None)
    )
    if of_host.rowcount > 0:
        changed.of(connection).hosts.add(host)


async def wake_pools(connection: AsyncConnection, pool_ids: Collection[str]) -> None:
    """Those that rest are tried again now."""
    resting = sa.update(pools).where(pools.c.id.in_(pool_ids), pools.c.failures > 0)
    woken = await connection.execute(resting.values(failures=0, cool_until=None, fault=""))
    changed.of(connection).catalog |= woken.rowcount > 0


async def _failed(
    connection: AsyncConnection,
    table: sa.Table,
    where: sa.ColumnElement[bool],
    now: datetime,
    chance: float,
    more: dict[str, Any] | None = None,
) -> None:
    locked = sa.select(table.c.failures, table.c.cool_until).where(where).with_for_update()
    row = (await connection.execute(locked)).first()
    if row is None:
        return
    # Machines that were made together fail together: they count as one failure while the rest lasts.
    failures = row.failures if row.cool_until and now < row.cool_until else row.failures + 1
    until = now + cooldown(failures, chance)
    await connection.execute(sa.update(table).where(where).values(failures=failures, cool_until=until, **more or {}))
