"""Transactions that run in one go, and new jobs that reach the planner as values."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from coordinator.domain.job import JobStatus
from coordinator.domain.planner import plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment, Policy
from coordinator.store import changed, telling
from coordinator.store.changed import Changes
from coordinator.store.schema import endpoints
from tests.samples.store import Sample, open_sample

_LIMIT = endpoints.c.registrations_per_minute


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


def _limit(connection: sa.Connection) -> int:
    found: int = connection.scalars(sa.select(_LIMIT)).one()
    return found


def _one_more(connection: sa.Connection) -> int:
    limit: int = connection.scalars(sa.select(_LIMIT).with_for_update()).one() + 1
    connection.execute(sa.update(endpoints).values({_LIMIT: limit}))
    changed.of(connection).catalog = True
    return limit


async def test_it_commits_tells_what_changed_and_returns_what_the_function_returned(sample: Sample) -> None:
    sample.store.feed.take()
    assert await sample.store._database.at_once(_one_more) == 1
    assert sample.store.feed.take() == Changes(catalog=True)
    async with sample.store._database.read() as connection:
        assert await connection.run_sync(_limit) == 1


async def test_what_fails_leaves_nothing_behind_and_the_next_one_works(sample: Sample) -> None:
    def fail(connection: sa.Connection) -> None:
        _one_more(connection)
        raise ZeroDivisionError

    sample.store.feed.take()
    with pytest.raises(ZeroDivisionError):
        await sample.store._database.at_once(fail)
    assert not sample.store.feed.take()
    assert await sample.store._database.at_once(_one_more) == 1


async def test_writers_of_both_kinds_take_turns(sample: Sample) -> None:
    database = sample.store._database

    async def in_steps() -> None:
        async with database.write() as connection:
            await connection.run_sync(_one_more)

    await asyncio.gather(*(database.at_once(_one_more) if number % 2 else in_steps() for number in range(40)))
    assert await database.at_once(_limit) == 40


async def test_the_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    async with open_sample(tmp_path) as sample:
        counting = asyncio.create_task(count())
        await sample.store._database.at_once(lambda _: time.sleep(0.3))
        counting.cancel()
    assert turns >= 5


async def test_a_new_job_is_planned_for_as_if_it_had_been_read(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    planning, policy = sample.store.planning, Policy()
    told = Board.of(await planning.world({}, policy))
    sample.store.feed.take()
    job = await sample.queue()
    changes = sample.store.feed.take()
    assert changes == Changes(arrived={job.id: job})
    read = Board.of(await planning.world({}, policy))
    monkeypatch.delattr(sample.store._database.__class__, "read")
    assert await planning.tell(told, changes) == []
    now = Moment(sample.clock())
    plan = plan_on(told, now)
    assert plan == plan_on(read, now)
    assert [create.for_job for create in plan.creates] == [job.id]


async def test_a_job_that_changed_since_it_arrived_is_read(sample: Sample) -> None:
    planning = sample.store.planning
    board = Board.of(await planning.world({}, Policy()))
    await sample.queue()
    await sample.store.ledger.record(sample.event(JobStatus.COMPLETED))
    await planning.tell(board, sample.store.feed.take())
    assert not plan_on(board, Moment(sample.clock())).creates


async def test_other_coordinators_hear_the_names_of_new_jobs_alone(sample: Sample) -> None:
    job = await sample.queue()
    secret = msgspec.structs.replace(job, name="only here")
    (piece,) = telling.split(Changes(arrived={job.id: secret}))
    assert piece == Changes(jobs={job.id})
