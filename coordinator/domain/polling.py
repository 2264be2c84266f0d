"""Asking a forge for what its webhooks have not told: how often, for what first, and what the answers mean. Pure.

Webhooks are hints: forges lose some for good. What is found by asking goes the same way as they do, so it can say
nothing that they could not, and a job that is known already is not changed by it.
"""

from collections.abc import Collection, Iterable, Mapping, Set
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import msgspec

from coordinator.domain.job import RANK, Job, JobEvent, JobKey, JobStatus
from coordinator.domain.labels import Labels, serve

DOUBT: Final = timedelta(minutes=2)
"""A job that has not changed for so long and is in no list is asked for by its id."""

MOST_RUNS: Final = 100
MOST_JOBS: Final = 20
"""In one poll: the others are asked for in the next ones."""

_LONGEST_REST: Final = timedelta(minutes=15)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_GONE_TIMES: Final = 3
_GONE_FOR: Final = timedelta(minutes=10)

Thing = TypeVar("Thing", int, str)


class Absence(msgspec.Struct, frozen=True):
    """How often a forge has said that it has no such job, and since when."""

    times: int
    since: datetime


def pause(every: timedelta, budget_left: float) -> timedelta:
    """Until a repository is asked for again: longer where other calls need what the rate limit has left."""
    if budget_left < 0.1:
        return every * 12
    return every * 3 if budget_left < 0.5 else every


def rest(every: timedelta, failures: int) -> timedelta:
    """Until it is asked for again after that many polls in a row that failed."""
    return min(every * (1 << min(failures - 1, 10)), max(every, _LONGEST_REST))


def first_to_ask(things: Iterable[Thing], asked: Mapping[Thing, datetime], most: int) -> list[Thing]:
    """Those that were never asked for, then those that were asked for the longest ago."""
    return sorted(things, key=lambda one: (asked.get(one, _NEVER), one))[:most]


def news(told: Iterable[JobEvent], known: Mapping[JobKey, JobStatus], pools: Collection[Labels]) -> list[JobEvent]:
    """What the ledger does not know: jobs further than it has them, and new ones that a pool could serve."""
    return [event for event in told if _is_news(event, known.get(event.key), pools)]


def _is_news(event: JobEvent, known: JobStatus | None, pools: Collection[Labels]) -> bool:
    if known is not None:
        return RANK[event.status] > RANK[known]
    return event.status is not JobStatus.COMPLETED and any(serve(labels, event.labels) for labels in pools)


def doubtful(jobs: Iterable[Job], listed: Set[JobKey], now: datetime) -> list[Job]:
    """The open jobs that the forge did not list: they may have ended, or begun, without our hearing of it."""
    return [job for job in jobs if job.key not in listed and now - job.changed_at >= DOUBT]


def missed(before: Absence | None, now: datetime) -> Absence:
    """The forge has said once more that it has no such job."""
    return Absence(before.times + 1, before.since) if before else Absence(1, now)


def is_gone(absence: Absence, now: datetime) -> bool:
    """Whether to believe it. One such answer proves nothing: forges are late with what they show."""
    return absence.times >= _GONE_TIMES and now - absence.since >= _GONE_FOR
