"""Jobs as they came and ran, for who wants to try another fleet on them: read while coordinators run, or do not."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from coordinator.domain.changes import Step
from coordinator.domain.job import JobStatus
from coordinator.store.database import Database, DatabaseUnusable
from coordinator.store.schema import entities, jobs, timeline

_AT_ONCE: Final = 1000
_HINT: Final = "check database.url; start the coordinator once"


class Recorded(msgspec.Struct, frozen=True):
    """A line of a trace. Times in seconds; `time` counts from when the first of the jobs was queued."""

    time: float
    entity: str
    labels: list[str]
    duration: float


async def recorded(url: str) -> AsyncIterator[Recorded]:
    """All jobs of repositories that ran to an end and are kept, by the time at which they were queued.

    Those that were cancelled while they waited are left out: nobody knows how long they would have run.

    Raises:
        DatabaseUnusable: it cannot be read, or no coordinator has ever used it.
    """
    database = Database(url)
    try:
        _check_there(database)
        async for row in _rows(database):
            yield row
    except (sa.exc.SQLAlchemyError, OSError) as error:
        reason = getattr(error, "orig", None) or error
        raise DatabaseUnusable(f"{database.url.render_as_string()}: {reason}", hint=_HINT) from error
    finally:
        await database.close()


def _check_there(database: Database) -> None:
    """SQLite would make the file."""
    if database.is_sqlite and not Path(database.url.database or "").exists():
        raise DatabaseUnusable(f"{database.url.render_as_string()}: there is no such file", hint=_HINT)


async def _rows(database: Database) -> AsyncIterator[Recorded]:
    first: datetime | None = None
    after: sa.ColumnElement[bool] = sa.true()
    while True:
        async with database.read() as connection:
            rows = (await connection.execute(_QUERY.where(after).limit(_AT_ONCE))).all()
        for row in rows:
            if row.began is None or row.ended is None:
                continue
            first = first or row.queued_at
            time, duration = row.queued_at - first, max(row.ended - row.began, timedelta())
            yield Recorded(_seconds(time), row.entity, sorted(row.labels), _seconds(duration))
        if len(rows) < _AT_ONCE:
            return
        after = sa.tuple_(jobs.c.queued_at, jobs.c.id) > sa.tuple_(
            sa.literal(rows[-1].queued_at, jobs.c.queued_at.type), sa.literal(rows[-1].id)
        )


def _seconds(time: timedelta) -> float:
    return round(time.total_seconds(), 3)


def _when(step: Step) -> sa.ScalarSelect[datetime]:
    mine = (timeline.c.job_id == jobs.c.id) & (timeline.c.step == step)
    return sa.select(sa.func.min(timeline.c.at)).where(mine).scalar_subquery()


_QUERY: Final = (
    sa.select(
        jobs.c.id,
        jobs.c.queued_at,
        jobs.c.labels,
        (entities.c.owner + "/" + entities.c.name).label("entity"),
        _when(Step.RUNNING).label("began"),
        _when(Step.COMPLETED).label("ended"),
    )
    .join(entities, entities.c.id == jobs.c.entity_id)
    .where(jobs.c.status == JobStatus.COMPLETED, entities.c.name != "")
    .order_by(jobs.c.queued_at, jobs.c.id)
)
