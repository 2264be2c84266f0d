"""Retention: what is over for long enough goes with all that belongs to it, and nothing else ever does."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.domain.changes import Phase
from coordinator.domain.instance import Instance, Status
from coordinator.domain.job import Job, JobStatus
from coordinator.engine import housekeeping
from coordinator.store.instances import PhaseFact
from coordinator.store.retention import Pruned
from coordinator.store.schema import consoles, instances, jobs, timeline
from tests.samples.store import DOCUMENT, Sample, open_sample

KEEP = timedelta(days=30)
_WIDE = DOCUMENT.replace("max_runners = 3", "max_runners = 100")


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def prune(sample: Sample) -> Pruned:
    await sample.store.notes.flush()
    return await housekeeping.prune(sample.store, KEEP, timedelta())


async def ids(sample: Sample, column: "sa.Column[str]") -> set[str]:
    async with sample.store._database.read() as connection:
        return set(await connection.scalars(sa.select(column)))


async def entries(sample: Sample) -> set[tuple[str, str]]:
    async with sample.store._database.read() as connection:
        rows = await connection.execute(sa.select(timeline.c.job_id, timeline.c.instance_id))
        return {(row.job_id, row.instance_id) for row in rows}


async def ran(sample: Sample, number: int, *, deleted: bool = True) -> tuple[Job, Instance]:
    """A job that ran to its end on an instance of its own."""
    machine = await sample.instance(number)
    await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, number, runner_name=machine.name))
    job = await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, number, runner_name=machine.name))
    await sample.store.hosts.keep_console(machine.id, b"login:", truncated=False)
    if deleted:
        await delete(sample, machine)
    return job, machine


async def delete(sample: Sample, machine: Instance) -> None:
    await sample.store.instances.record_phase(PhaseFact("host-1", machine.id, Phase.DELETED, sample.clock()))


async def test_a_job_and_its_instance_go_with_everything_that_is_theirs_when_they_are_old(sample: Sample) -> None:
    job, machine = await ran(sample, 1)
    await sample.store.notes.flush()
    assert {(job.id, ""), (job.id, machine.id), ("", machine.id)} <= await entries(sample)
    sample.clock.move(days=30)
    assert await prune(sample) == (0, 0)
    sample.clock.move(seconds=1)
    assert await prune(sample) == (1, 1)
    for column in (jobs.c.id, instances.c.id, consoles.c.instance_id, timeline.c.step):
        assert await ids(sample, column) == set()
    assert await prune(sample) == (0, 0)


async def test_what_is_younger_stays_whole(sample: Sample) -> None:
    await ran(sample, 1)
    sample.clock.move(days=20)
    job, machine = await ran(sample, 2)
    await sample.store.notes.flush()
    kept = {entry for entry in await entries(sample) if entry[0] == job.id or entry[1] == machine.id}
    sample.clock.move(days=15)
    assert await prune(sample) == (1, 1)
    assert await ids(sample, jobs.c.id) == {job.id}
    assert await ids(sample, instances.c.id) == await ids(sample, consoles.c.instance_id) == {machine.id}
    assert await entries(sample) == kept


@pytest.mark.parametrize("status", [JobStatus.WAITING, JobStatus.QUEUED, JobStatus.IN_PROGRESS])
async def test_a_job_that_has_not_ended_is_kept_however_old(sample: Sample, status: JobStatus) -> None:
    await sample.store.ledger.record(sample.event(status, 1, runner_name="another"))
    sample.clock.move(days=4000)
    assert await prune(sample) == (0, 0)


async def test_an_instance_that_is_not_deleted_is_kept_with_the_jobs_that_it_ran_and_was_made_for(
    sample: Sample,
) -> None:
    first, machine = await ran(sample, 1, deleted=False)
    other = await sample.instance(2)
    made_for = await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 2))
    sample.clock.move(days=4000)
    assert await prune(sample) == (0, 0)
    assert await ids(sample, jobs.c.id) == {first.id, made_for.id}
    await delete(sample, machine)
    await delete(sample, other)
    assert await prune(sample) == (2, 0)
    sample.clock.move(days=31)
    assert await prune(sample) == (0, 2)


async def test_a_deleted_instance_is_kept_for_as_long_as_the_job_that_it_ran(sample: Sample) -> None:
    machine = await sample.instance(1)
    job = await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, 1, runner_name=machine.name))
    await delete(sample, machine)
    sample.clock.move(days=40)
    assert await prune(sample) == (0, 0)
    assert machine.id in {entry.instance_id for entry in await sample.store.history.timeline(job)}
    await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 1, runner_name=machine.name))
    sample.clock.move(days=31)
    assert await prune(sample) == (1, 1)


async def test_an_entry_of_two_goes_with_the_last_of_them(sample: Sample) -> None:
    machine = await sample.instance(1)  # made for job 1, which another runner takes
    job = await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 1, runner_name="another"))
    sample.clock.move(days=10)
    await delete(sample, machine)
    sample.clock.move(days=25)
    assert await prune(sample) == (1, 0)
    assert (job.id, machine.id) in await entries(sample)
    sample.clock.move(days=10)
    assert await prune(sample) == (0, 1)
    assert await entries(sample) == set()


async def test_a_batch_is_small_and_what_changed_meanwhile_is_looked_at_again(sample: Sample) -> None:
    events = [sample.event(JobStatus.COMPLETED, number) for number in range(1, 251)]
    await asyncio.gather(*map(sample.store.ledger.record, events))
    sample.clock.move(days=31)
    sizes = [await sample.store.retention.prune(KEEP) for _ in range(2)]
    assert sorted(size.jobs for size in sizes if size) == [50, 100]
    left = sorted(await ids(sample, jobs.c.id))
    # One of those that were looked up is claimed by a machine before its batch is deleted.
    machine = await sample.instance(5000)
    async with sample.store._database.write() as connection:
        change = sa.update(instances).where(instances.c.id == machine.id).values(job_id=left[0])
        await connection.execute(change)
    await prune(sample)
    assert await ids(sample, jobs.c.id) == {left[0], machine.for_job}


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_the_past_nothing_alive_or_needed_is_deleted_and_nothing_dangles(
    sample: Sample, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a repeatable past, not secrets
    await sample.apply(_WIDE)
    await sample.look()
    for number in range(1, 40):
        machine = await sample.instance(number)
        sample.clock.move(days=chance.random())
        for status in (JobStatus.IN_PROGRESS, JobStatus.COMPLETED):
            if chance.random() < 0.8:
                name = machine.name if chance.random() < 0.7 else "another"
                await sample.store.ledger.record(sample.event(status, number, runner_name=name))
        sample.clock.move(days=chance.random())
        if chance.random() < 0.7:
            await delete(sample, machine)
    sample.clock.move(days=15)
    before = sample.clock() - KEEP
    async with sample.store._database.read() as connection:
        was_jobs = {row.id: row for row in await connection.execute(sa.select(jobs))}
        was_instances = {row.id: row for row in await connection.execute(sa.select(instances))}
    done = await prune(sample)
    assert done.jobs
    assert done.instances
    left_jobs, left_instances = await ids(sample, jobs.c.id), await ids(sample, instances.c.id)
    assert (len(was_jobs) - len(left_jobs), len(was_instances) - len(left_instances)) == done
    for row in was_instances.values():
        if row.status != Status.DELETED or row.changed_at >= before:
            assert row.id in left_instances
        if row.status != Status.DELETED:
            assert {row.job_id, row.for_job} - {""} <= left_jobs
    for job in was_jobs.values():
        if job.status != JobStatus.COMPLETED or job.changed_at >= before:
            assert job.id in left_jobs
        if job.id in left_jobs and job.instance_id:
            assert job.instance_id in left_instances
    for job_id, instance_id in await entries(sample):
        assert job_id in left_jobs or instance_id in left_instances
