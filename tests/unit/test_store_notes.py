"""Late notes of timelines: who asks for them to be on disk gets them on disk."""

import asyncio
import random
import uuid
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.changes import Step
from coordinator.domain.timeline import Entry
from coordinator.store.schema import timeline
from coordinator.store.store import Store, open_store

NOTE = Entry(Step.DISPATCHED, datetime(2026, 1, 1, tzinfo=UTC), "", "an-instance")


async def opened(folder: Path, url: str) -> Store:
    return await open_store(
        url,
        folder,
        clock=lambda: datetime.now(UTC),
        new_id=lambda: str(uuid.uuid4()),
        chance=random.random,
    )


async def on_disk(store: Store) -> int:
    async with store._database.read() as connection:
        return int(await connection.scalar(sa.select(sa.func.count()).select_from(timeline)) or 0)


async def hold_up(connection: AsyncConnection) -> None:
    """Whoever else writes to timelines waits for this transaction's end, as everybody does on SQLite."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.text("LOCK TABLE timeline IN EXCLUSIVE MODE"))


async def test_a_flush_waits_for_the_one_that_is_under_way(tmp_path: Path, database_url: str) -> None:
    store = await opened(tmp_path, database_url)
    async with store._database.write() as connection:  # the first flush has the notes and must wait
        await hold_up(connection)
        store.notes.add([NOTE])
        first = asyncio.create_task(store.notes.flush())
        await asyncio.sleep(0)
        second = asyncio.create_task(store.notes.flush())
        await asyncio.wait({second}, timeout=0.05)
        assert not second.done()
    await second
    assert await on_disk(store) == 1
    await first
    await store.close()


async def test_an_orderly_end_does_not_cut_a_write_off(tmp_path: Path, database_url: str) -> None:
    store = await opened(tmp_path, database_url)
    async with store._database.write() as connection:
        await hold_up(connection)
        store.notes.add([NOTE])
        store.notes._delay_seconds = 0.0
        while store.notes._entries:  # until the notes' own writer has taken them; then it waits
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(store.notes.close())
        await asyncio.sleep(0)
    await closing
    assert await on_disk(store) == 1
    await store.close()
