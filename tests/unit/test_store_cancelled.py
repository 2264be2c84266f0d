"""Writes whose caller goes away in their midst: whatever is committed all the same is told."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import sqlalchemy as sa

from coordinator.store import changed
from coordinator.store.changed import Changes
from coordinator.store.database import Database

WRITES = 300
WARM_UP = 10
_scratch = sa.Table("scratch", sa.MetaData(), sa.Column("name", sa.Text(), primary_key=True))


@pytest.fixture
async def database(empty_database_url: str) -> AsyncIterator[Database]:
    one = Database(empty_database_url)
    async with one.write() as connection:
        await connection.run_sync(_scratch.metadata.create_all)
    yield one
    await one.close()


def _insert(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.insert(_scratch).values(name=name))
    changed.of(connection).jobs.add(name)


async def _in_a_block(database: Database, name: str) -> None:
    async with database.write() as connection:
        await connection.run_sync(_insert, name)


async def _at_once(database: Database, name: str) -> None:
    await database.at_once(lambda connection: _insert(connection, name))


async def _cut_after(work: Awaitable[None], seconds: float) -> bool:
    """Whether it was still under way then."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(seconds)
    task.cancel()
    return isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)


@pytest.mark.parametrize("write", [_in_a_block, _at_once])
async def test_what_is_committed_is_told_though_the_caller_was_cancelled(
    database: Database, write: Callable[[Database, str], Awaitable[None]]
) -> None:
    told: set[str] = set()

    def tell(changes: Changes) -> None:
        told.update(changes.jobs)

    database.on_change = tell
    longest = 0.0
    for number in range(WARM_UP):
        await _cut_after(write(database, f"cut-{number}"), 0)  # the next one may need a new connection
        began = time.monotonic()
        await write(database, f"whole-{number}")
        longest = max(longest, time.monotonic() - began)
    cancelled = 0
    for number in range(WRITES):
        cancelled += await _cut_after(write(database, f"{number}"), longest * number / WRITES)
    async with database.read() as connection:
        kept = set(await connection.scalars(sa.select(_scratch.c.name)))
    assert kept == told
    assert len(kept) > WARM_UP
    assert cancelled


async def test_what_fails_is_not_told(database: Database) -> None:
    told: list[Changes] = []
    database.on_change = told.append
    await _in_a_block(database, "first")
    for write in (_in_a_block, _at_once):
        with pytest.raises(sa.exc.IntegrityError):
            await write(database, "first")
    assert [one.jobs for one in told] == [{"first"}]
