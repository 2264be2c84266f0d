"""What is counted for jobs and pools when machines come to nothing, and when it is forgotten."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.domain import tries
from coordinator.domain.changes import Phase
from coordinator.domain.fleet import Pool
from coordinator.domain.instance import RunnerStatus
from coordinator.domain.job import Job
from coordinator.domain.world import Create, Plan
from coordinator.store.instances import PhaseFact
from tests.samples.store import DOCUMENT, FORGE_TOKEN, WEBHOOK_SECRET, Sample, open_sample

GPU = DOCUMENT + DOCUMENT[DOCUMENT.index("[[pool]]") :].replace('"linux"\n', '"gpu"\n').replace('"linux"]', '"gpu"]')


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def machine_for(sample: Sample, job: Job, pool: Pool | None = None) -> str:
    made = await sample.store.planning.commit(Plan(creates=(Create(pool or sample.pool, "host-1", job.id),)))
    return made[0].id


async def fail(sample: Sample, job: Job, times: int = 1, *, is_try: bool = True) -> None:
    for _ in range(times):
        sample.clock.move(minutes=6)  # longer than any rest: each counts
        machine = await machine_for(sample, job)
        await sample.store.instances.retire(machine, "no boot device", failed=True, is_try=is_try)
        await sample.store.instances.record_phase(PhaseFact("host-1", machine, Phase.DELETED, sample.clock()))


async def now(sample: Sample, job: Job) -> Job:
    found = await sample.store.history.job(job.id)
    assert found is not None
    return found


async def pool_now(sample: Sample) -> Pool:
    return next(pool for pool in await sample.store.catalog.pools() if pool.name == "linux")


async def test_a_machine_that_came_to_nothing_is_a_try_of_its_job_and_a_failure_of_its_pool(sample: Sample) -> None:
    job = await sample.queue()
    await fail(sample, job, tries.MOST)
    held = await now(sample, job)
    assert (held.tries, held.fault) == (tries.MOST, "no boot device")
    assert held.retry_at == sample.clock() + tries.REST
    pool = await pool_now(sample)
    assert (pool.failures, pool.fault) == (tries.MOST, "no boot device")


async def test_what_says_nothing_of_the_job_is_no_try_and_its_pool_rests_longer_each_time(sample: Sample) -> None:
    job = await sample.queue()
    rests = []
    for _ in range(tries.MOST + 2):
        await fail(sample, job, is_try=False)
        pool = await pool_now(sample)
        assert pool.cool_until is not None
        rests.append(pool.cool_until - sample.clock())
    assert rests == [timedelta(seconds=2**n / 2) for n in range(tries.MOST + 2)]
    free = await now(sample, job)
    assert (free.tries, free.retry_at) == (0, None)


async def test_a_runner_that_comes_online_frees_the_jobs_that_its_pool_serves(sample: Sample) -> None:
    await sample.apply(GPU)
    job = await sample.queue(1)
    await fail(sample, job, tries.MOST)
    gpu = next(pool for pool in await sample.store.catalog.pools() if pool.name == "gpu")
    for pool, freed in ((gpu, False), (await pool_now(sample), True)):
        machine = await machine_for(sample, await sample.queue(2), pool)
        sample.store.feed.take()
        await sample.store.instances.runner_said(machine, RunnerStatus.IDLE, "")
        after = await now(sample, job)
        assert ((after.tries, after.retry_at) == (0, None)) is freed
        assert (job.id in sample.store.feed.take().jobs) is freed
    pool = await pool_now(sample)
    assert (pool.failures, pool.cool_until, pool.fault) == (0, None, "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FORGE_TOKEN, "a-renewed-token"),
        (WEBHOOK_SECRET, "a-renewed-webhook-secret"),
        ("max_runners = 3", "max_runners = 4"),
        ("memory_mib = 2048", "memory_mib = 4096"),
        ("/api/v3", "/api/v4"),
    ],
    ids=["credentials", "repository", "pool", "flavor", "endpoint"],
)
async def test_what_is_declared_anew_is_tried_at_once(sample: Sample, old: str, new: str) -> None:
    job = await sample.queue()
    await fail(sample, job, tries.MOST)
    await sample.apply(DOCUMENT)
    assert (await now(sample, job)).tries == tries.MOST  # nothing is new
    sample.store.feed.take()
    await sample.apply(DOCUMENT.replace(old, new))
    freed, pool = await now(sample, job), await pool_now(sample)
    assert (freed.tries, freed.retry_at, freed.fault) == (0, None, "")
    assert (pool.failures, pool.cool_until, pool.fault) == (0, None, "")
    told = sample.store.feed.take()
    assert told.catalog
    assert job.id in told.jobs


async def test_what_is_declared_of_others_frees_nobody(sample: Sample) -> None:
    job = await sample.queue()
    await fail(sample, job, tries.MOST)
    await sample.apply('[[endpoint]]\nname = "two"\nbase_url = "https://two.example"')
    await sample.apply('[[flavor]]\nname = "other"\nvcpus = 1\nmemory_mib = 1024\ndisk_gib = 5')
    assert (await now(sample, job)).tries == tries.MOST
    assert (await pool_now(sample)).failures == tries.MOST
