"""The poller against a scripted forge: whom it asks and when, and what becomes of the answers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.domain.job import Job, JobStatus
from coordinator.engine.budgets import Budgets
from coordinator.engine.polling import Poller
from coordinator.engine.registrar import Registrar
from coordinator.forges.contract import ForgeError, ForgeJob, ForgeRefused, ForgeUnavailable, OpenRuns
from coordinator.runner_api.waiting import Waiting
from tests.samples.store import DOCUMENT, Sample, open_sample

EVERY = timedelta(minutes=5)
SECOND = (
    '[[repository]]\nendpoint = "forge"\nowner = "octo"\nname = "second"\ncredentials = "token"\n'
    'webhook_secret = "another-secret-of-theirs"\n'
) + DOCUMENT[DOCUMENT.index("[[pool]]") :].replace("Octo/Widgets", "octo/second")


class Forge:
    """Every job is a run of its own."""

    def __init__(self) -> None:
        self.jobs: dict[int, ForgeJob] = {}
        self.calls: list[str] = []
        self.error: ForgeError | None = None
        self.budget_left = 1.0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def has(self, number: int, status: str, *names: str, runner: str | None = None, conclusion: str = "") -> None:
        names = names or ("linux",)
        self.jobs[number] = ForgeJob(status, conclusion or None, runner, number, number, 1, list(names), "build")

    async def _ask(self, what: str) -> None:
        self.calls.append(what)
        await self.may_answer.wait()
        if self.error:
            raise self.error

    async def open_runs(self) -> OpenRuns:
        await self._ask("runs")
        return OpenRuns(tuple(n for n, job in self.jobs.items() if job.status != "completed"), self.budget_left)

    async def jobs_of_run(self, run_id: int) -> list[ForgeJob]:
        await self._ask(f"run {run_id}")
        return [self.jobs[run_id]] if run_id in self.jobs else []

    async def job(self, number: int) -> ForgeJob | None:
        await self._ask(f"job {number}")
        return self.jobs.get(number)

    async def of(self, _: str) -> "Forge":
        return self


class Desk:
    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.forge = Forge()
        self.budgets = Budgets()
        store, clock = sample.store, sample.clock
        registrar = Registrar(store, self.forge, Waiting(), self.budgets, clock, lambda: 0.0)  # type: ignore[arg-type]
        self.poller = Poller(store, registrar, self.budgets, EVERY, clock, lambda: 1.0)

    async def turn(self, **later: float) -> list[str]:
        """One turn, so much later, with all that it began; what was asked."""
        self.sample.clock.move(**later)
        self.forge.calls = []
        await self.poller._look_around()
        self.poller._begin()
        if self.forge.may_answer.is_set():
            await asyncio.gather(*self.poller._polls.values())
        await asyncio.sleep(0)
        return self.forge.calls

    async def known(self) -> dict[int, Job]:
        return {job.key.forge_job_id: job for job in await self.sample.store.history.jobs(completed=True)}


@pytest.fixture
async def desk(tmp_path: Path, database_url: str) -> AsyncIterator[Desk]:
    async with open_sample(tmp_path, database_url) as sample:
        yield Desk(sample)


async def test_a_job_of_which_no_webhook_told_is_demand_from_then_on(desk: Desk) -> None:
    desk.forge.has(1, "queued")
    desk.forge.has(2, "queued", "windows")
    desk.forge.has(3, "waiting")
    desk.forge.has(4, "pending")
    assert await desk.turn() == ["runs", "run 1", "run 2", "run 3", "run 4"]
    known = await desk.known()
    assert {number: job.status for number, job in known.items()} == {1: JobStatus.QUEUED, 3: JobStatus.WAITING}
    assert [job.key.forge_job_id for job in (await desk.sample.store.planning.world({})).jobs] == [1]


async def test_what_is_known_is_not_changed_and_what_has_gone_on_is(desk: Desk) -> None:
    machine = await desk.sample.instance(1)
    waits = await desk.sample.queue(2)
    desk.forge.has(1, "in_progress", runner=machine.name)
    desk.forge.has(2, "queued")
    await desk.turn(minutes=1)
    known = await desk.known()
    assert (known[1].status, known[1].instance_id) == (JobStatus.IN_PROGRESS, machine.id)
    assert known[2] == waits


async def test_polls_come_at_their_pace_and_rarer_when_the_budget_shrinks(desk: Desk) -> None:
    assert await desk.turn() == ["runs"]
    assert await desk.turn(minutes=4, seconds=59) == []
    desk.forge.budget_left = 0.2
    assert await desk.turn(seconds=1) == ["runs"]
    assert await desk.turn(minutes=14) == []
    assert await desk.turn(minutes=1) == ["runs"]


async def test_a_forge_that_wants_to_be_left_alone_is(desk: Desk) -> None:
    credentials = (await desk.sample.store.catalog.entities())[0].credentials_id
    desk.budgets.pause(credentials, desk.sample.clock() + timedelta(minutes=10))
    assert await desk.turn() == []
    assert await desk.turn(minutes=9) == []
    assert await desk.turn(minutes=1) == ["runs"]


async def test_one_repository_at_a_time_is_asked_with_one_credential(desk: Desk) -> None:
    await desk.sample.apply(SECOND)
    desk.forge.may_answer.clear()
    assert await desk.turn() == ["runs"]
    assert await desk.turn() == []
    desk.forge.may_answer.set()
    assert await desk.turn() == []
    assert await desk.turn() == ["runs"]
    assert await desk.turn() == []


@pytest.mark.parametrize("error", [ForgeRefused("401"), ForgeUnavailable("down")])
async def test_a_poll_that_fails_is_made_again_later_each_time_and_drops_nothing(desk: Desk, error: ForgeError) -> None:
    await desk.sample.queue(1)
    desk.forge.error = error
    assert await desk.turn() == ["runs"]
    assert await desk.turn(minutes=5) == ["runs"]
    assert await desk.turn(minutes=5) == []
    desk.forge.error = None
    assert await desk.turn(minutes=5) == ["runs", "job 1"]
    assert await desk.turn(minutes=5) == ["runs", "job 1"]
    assert (await desk.known())[1].status is JobStatus.QUEUED


async def test_a_job_that_is_not_listed_is_asked_for_and_ends_as_the_forge_says(desk: Desk) -> None:
    await desk.sample.queue(1)
    desk.forge.has(1, "completed", conclusion="cancelled")
    assert await desk.turn(minutes=1) == ["runs"]  # it may have been queued a moment ago
    assert await desk.turn(minutes=5) == ["runs", "job 1"]
    ended = (await desk.known())[1]
    assert (ended.status, ended.conclusion) == (JobStatus.COMPLETED, "cancelled")
    assert await desk.turn(minutes=5) == ["runs"]


async def test_one_answer_that_there_is_no_such_job_drops_no_demand_and_many_do(desk: Desk) -> None:
    await desk.sample.queue(1)
    for _ in range(2):
        assert await desk.turn(minutes=5) == ["runs", "job 1"]
        assert (await desk.known())[1].status is JobStatus.QUEUED
    desk.forge.has(1, "queued")
    await desk.turn(minutes=5)  # it is there after all: all is forgotten
    del desk.forge.jobs[1]
    for _ in range(2):
        await desk.turn(minutes=5)
        assert (await desk.known())[1].status is JobStatus.QUEUED
    await desk.turn(minutes=5)
    ended = (await desk.known())[1]
    assert (ended.status, ended.conclusion) == (JobStatus.COMPLETED, "gone")


async def test_who_does_not_plan_asks_nobody(desk: Desk) -> None:
    await desk.turn()
    desk.sample.store.lease.lose()
    desk.sample.clock.move(hours=1)
    desk.forge.calls = []
    running = asyncio.create_task(desk.poller.run())
    await asyncio.sleep(0.05)
    running.cancel()
    assert desk.forge.calls == []
    assert desk.poller._repositories == {}
