"""The ledger of demand: shared commits, events in any order, and jobs tied to the machines that ran them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from coordinator.domain.changes import Step
from coordinator.domain.instance import RunnerStatus, Status
from coordinator.domain.job import Job, JobStatus
from coordinator.store.batch import Batcher
from coordinator.store.ledger import EntityGone
from coordinator.store.schema import timeline
from tests.samples.store import TWIN, Sample, open_bare, open_sample


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


@contextmanager
def commits(sample: Sample) -> Iterator[list[object]]:
    """Counts the commits of writers within the block."""
    seen: list[object] = []
    count = seen.append
    database = sample.store._database
    engines = [database._writer.sync_engine] + ([database._whole._engine] if database.is_sqlite else [])
    for engine in engines:
        sa.event.listen(engine, "commit", count)
    yield seen
    for engine in engines:
        sa.event.remove(engine, "commit", count)


async def _steps(sample: Sample, job: Job) -> list[Step]:
    await sample.store.notes.flush()
    return [entry.step for entry in await sample.store.history.timeline(job)]


async def _job(sample: Sample, number: int = 1) -> Job:
    found = await sample.store.history.job(str(number))
    assert found is not None
    return found


async def test_events_that_arrive_together_share_commits(sample: Sample) -> None:
    await sample.store.settings.get()  # which are read once; PostgreSQL's readers commit as well
    with commits(sample) as seen:
        await sample.queue(1)
        assert len(seen) == 1
        jobs = await asyncio.gather(*(sample.queue(number) for number in range(2, 402)))
    assert 2 <= len(seen) <= 5
    assert len({job.id for job in jobs}) == 400
    assert len(await sample.store.history.jobs(completed=True)) == 401


async def test_more_than_one_batch_holds_is_written_in_several(sample: Sample) -> None:
    with commits(sample) as seen:
        await asyncio.gather(*(sample.queue(number) for number in range(1, 1201)))
    assert 3 <= len(seen) <= 6
    assert len(await sample.store.history.jobs(completed=True)) == 1200


async def test_what_is_recorded_is_on_disk_for_another_process(sample: Sample, database_url: str) -> None:
    job = await sample.queue()
    async with open_bare(sample.directory, database_url, kind=1) as other:
        assert await other.store.history.job(job.id) == job


async def test_an_event_that_cannot_be_written_takes_no_other_with_it(sample: Sample) -> None:
    bad = sample.event(JobStatus.QUEUED, 5, entity_id="no such entity")
    events = [sample.event(JobStatus.QUEUED, number) for number in range(1, 5)] + [bad]
    # The first is under way while the others gather.
    results = await asyncio.gather(*(sample.store.ledger.record(e) for e in events), return_exceptions=True)
    assert [isinstance(result, Job) for result in results] == [True] * 4 + [False]
    assert isinstance(results[4], EntityGone)
    assert len(await sample.store.history.jobs(completed=True)) == 4
    assert (await sample.queue(6)).status is JobStatus.QUEUED


async def test_a_database_that_is_down_is_not_asked_for_each_item() -> None:
    asked: list[int] = []

    async def write(items: Sequence[int]) -> list[None]:
        asked.append(len(items))
        raise sa.exc.OperationalError("INSERT", {}, Exception("disk is full"))

    batcher = Batcher[int, None](write)
    results = await asyncio.gather(*(batcher.submit(n) for n in range(50)), return_exceptions=True)
    assert all(isinstance(result, sa.exc.OperationalError) for result in results)
    assert asked == [50]


async def test_repeated_and_late_events_change_nothing(sample: Sample) -> None:
    await sample.queue()
    sample.clock.move(seconds=1)
    done = await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, conclusion="success"))
    sample.clock.move(seconds=10)
    for status in JobStatus:
        assert await sample.store.ledger.record(sample.event(status, conclusion="success")) == done
    together = [sample.event(status, 2) for status in (JobStatus.COMPLETED, JobStatus.QUEUED, JobStatus.QUEUED)]
    results = await asyncio.gather(*map(sample.store.ledger.record, together))
    assert {job.id for job in results} == {(await _job(sample, 2)).id}
    assert (await _job(sample, 2)).status is JobStatus.COMPLETED
    assert await _steps(sample, done) == [Step.WEBHOOK, Step.COMMITTED, Step.COMPLETED]


async def test_a_job_that_the_forge_held_back_is_kept_with_the_time_at_which_it_was_let_through(sample: Sample) -> None:
    await sample.store.ledger.record(sample.event(JobStatus.WAITING))
    sample.clock.move(days=2)
    await sample.queue()
    assert (await _job(sample)).queued_at == sample.clock()


async def test_a_job_is_tied_to_the_machine_that_took_it(sample: Sample) -> None:
    planned_for_it = await sample.instance(1)
    taker = await sample.instance(2)
    await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, 1, runner_name=taker.name))

    assert (await _job(sample, 1)).instance_id == taker.id
    bound = await sample.now(taker)
    assert (bound.runner_status, bound.job_id) == (RunnerStatus.ACTIVE, (await _job(sample, 1)).id)
    assert (await sample.now(planned_for_it)).job_id == ""

    await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 1, runner_name=taker.name, conclusion="success"))
    ended = await sample.now(taker)
    assert (ended.status, ended.runner_status) == (Status.PENDING_DELETE, RunnerStatus.TERMINATED)
    assert (await sample.now(planned_for_it)).status is Status.PENDING_CREATE
    assert (await _job(sample, 2)).status is JobStatus.QUEUED


@pytest.mark.parametrize("together", [True, False])
async def test_an_end_that_comes_first_still_ends_the_machine(sample: Sample, together: bool) -> None:
    machine = await sample.instance()
    events = [
        sample.event(JobStatus.COMPLETED, runner_name=machine.name, conclusion="success"),
        sample.event(JobStatus.IN_PROGRESS, runner_name=machine.name),
    ]
    if together:
        await asyncio.gather(*map(sample.store.ledger.record, events))
    else:
        for event in events:
            await sample.store.ledger.record(event)
    ended = await sample.now(machine)
    assert (ended.status, ended.job_id) == (Status.PENDING_DELETE, (await _job(sample)).id)


async def test_a_runner_that_is_not_ours_is_nobody(sample: Sample) -> None:
    machine = await sample.instance()
    job = await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, runner_name="somebody's laptop"))
    assert (job.status, job.instance_id) == (JobStatus.IN_PROGRESS, "")
    assert await sample.now(machine) == machine


async def test_another_repository_cannot_end_a_machine_by_its_name(sample: Sample) -> None:
    machine = await sample.instance()
    await sample.apply(TWIN)
    evil = await sample.entity_of("evil")
    claimed = sample.event(JobStatus.COMPLETED, 9, runner_name=machine.name, entity_id=evil)
    await sample.store.ledger.record(claimed)
    assert await sample.now(machine) == machine
    assert (await _job(sample, 9)).instance_id == ""


@pytest.mark.parametrize("evil_first", [True, False])
async def test_two_that_claim_a_machine_in_one_commit_leave_it_to_its_repository(
    sample: Sample, evil_first: bool
) -> None:
    machine = await sample.instance()
    await sample.apply(TWIN)
    claims = [
        sample.event(JobStatus.IN_PROGRESS, 9, runner_name=machine.name, entity_id=await sample.entity_of("evil")),
        sample.event(JobStatus.IN_PROGRESS, 1, runner_name=machine.name),
    ]
    await asyncio.gather(*map(sample.store.ledger.record, claims if evil_first else reversed(claims)))
    assert (await _job(sample, 1)).instance_id == machine.id
    assert (await _job(sample, 9)).instance_id == ""


async def test_a_machine_runs_one_job_whatever_is_said(sample: Sample) -> None:
    machine = await sample.instance(1)
    await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, 1, runner_name=machine.name))
    await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 2, runner_name=machine.name))
    assert (await sample.now(machine)).runner_status is RunnerStatus.ACTIVE
    assert (await _job(sample, 1)).instance_id == machine.id
    assert (await _job(sample, 2)).instance_id == ""


async def test_characters_that_a_database_refuses_are_left_out(sample: Sample) -> None:
    event = msgspec.structs.replace(sample.event(JobStatus.QUEUED), name="a\0b", workflow="\0")
    job = await sample.store.ledger.record(event)
    kept = await _job(sample)
    assert (kept.id, kept.name, kept.workflow) == (job.id, "ab", "")


async def test_a_commit_wakes_the_engine_and_tells_the_watchers(sample: Sample) -> None:
    sample.store.feed.work.clear()
    watch = sample.store.feed.watch()
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    job = await sample.queue()
    assert sample.store.feed.work.is_set()
    entry = await first
    assert (entry.step, entry.job_id) == (Step.WEBHOOK, job.id)
    await watch.aclose()  # type: ignore[attr-defined]
    assert not sample.store.feed._watchers


async def test_notes_share_a_commit_and_are_kept_when_the_store_closes(tmp_path: Path, database_url: str) -> None:
    async with open_sample(tmp_path, database_url) as sample:
        sample.store.notes._delay_seconds = 60.0  # only what is asked for is written
        jobs = [await sample.queue(number) for number in (1, 2, 3)]
        with commits(sample) as seen:
            await sample.store.notes.flush()
            await sample.store.notes.flush()
        assert len(seen) == 1
        last = await sample.queue(4)
    async with open_sample(tmp_path, database_url) as sample, sample.store._database.read() as connection:
        query = sa.select(timeline.c.job_id).where(timeline.c.step == Step.COMMITTED)
        assert set(await connection.scalars(query)) == {job.id for job in [*jobs, last]}
