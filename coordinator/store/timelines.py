"""Timelines in the database, and the late notes that are written when there is time."""

import asyncio
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain.changes import Step
from coordinator.domain.timeline import Entry
from coordinator.store.database import Database
from coordinator.store.feed import Feed
from coordinator.store.retrying import retried
from coordinator.store.rows import from_entry
from coordinator.store.schema import timeline

log = structlog.get_logger()


def append(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    if entries:
        connection.execute(sa.insert(timeline), [from_entry(entry) for entry in entries])


async def of(connection: AsyncConnection, job_id: str, instance_id: str) -> list[Entry]:
    """The entries of a job and of the instance that ran it, by time."""
    # Another instance may have been planned for this job's demand: its entries are not of this job's way.
    mine = (timeline.c.job_id == job_id) & timeline.c.instance_id.in_({"", instance_id})
    if instance_id:
        mine |= timeline.c.instance_id == instance_id
    rows = await connection.execute(sa.select(timeline).where(mine).order_by(timeline.c.at, timeline.c.id))
    return [Entry(Step(r.step), r.at, r.job_id, r.instance_id, r.detail) for r in rows]


async def of_instance(connection: AsyncConnection, instance_id: str) -> list[Entry]:
    """The entries of an instance, by time."""
    mine = timeline.c.instance_id == instance_id
    rows = await connection.execute(sa.select(timeline).where(mine).order_by(timeline.c.at, timeline.c.id))
    return [Entry(Step(r.step), r.at, r.job_id, r.instance_id, r.detail) for r in rows]


class Notes:
    """Entries that are known only after a commit, like the commit's own end: told at once, written a moment later.

    They share a transaction, so that they do not cost the path of a job a commit of its own. A crash may lose the
    last of them; nothing is decided by them.
    """

    def __init__(self, database: Database, feed: Feed, delay_seconds: float = 0.2) -> None:
        self._database = database
        self._feed = feed
        self._delay_seconds = delay_seconds
        self._entries: list[Entry] = []
        self._writer: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def add(self, entries: Iterable[Entry]) -> None:
        entries = list(entries)
        self._entries += entries
        self._feed.publish(entries)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_soon())

    async def _write_soon(self) -> None:
        while self._entries:
            await asyncio.sleep(self._delay_seconds)
            try:
                await self.flush()
            except Exception:
                log.exception("late timeline entries could not be written, they are kept", entries=len(self._entries))

    async def flush(self) -> None:
        """Returns when all that was added is on disk, by whomever."""
        async with self._writing:
            entries, self._entries = self._entries, []
            try:
                if entries:
                    await self._write(entries)
            except BaseException:
                self._entries[:0] = entries
                raise

    @retried
    async def _write(self, entries: Sequence[Entry]) -> None:
        await self._database.at_once(lambda connection: append(connection, entries))

    async def close(self) -> None:
        async with self._writing:  # a write under way is not cut off
            if self._writer is not None:
                self._writer.cancel()
        await self.flush()
