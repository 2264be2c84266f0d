"""Keys that sign: one for each purpose, so that none opens what another is for; sealed at rest."""

import secrets
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store.schema import signing_keys
from coordinator.store.sealing import Sealer

_BYTES: Final = 32


class Purpose(StrEnum):
    """What a key signs; instances' tokens have the controller's own."""

    ADMIN = "admin"
    METRICS = "metrics"
    AUDIT = "audit"


async def load_or_make(
    connection: AsyncConnection, sealer: Sealer, new_id: Callable[[], str], now: datetime
) -> dict[Purpose, bytes]:
    """The key of every purpose, made where there is none yet."""
    rows = {row.purpose: row for row in await connection.execute(sa.select(signing_keys))}
    keys = {}
    for purpose in Purpose:
        if row := rows.get(purpose):
            keys[purpose] = sealer.open(row.key, f"signing_key:{row.id}")
            continue
        keys[purpose] = secrets.token_bytes(_BYTES)
        row_id = new_id()
        sealed = sealer.seal(keys[purpose], f"signing_key:{row_id}")
        values = {"id": row_id, "purpose": purpose.value, "key": sealed, "created_at": now}
        await connection.execute(sa.insert(signing_keys).values(**values))
    return keys
