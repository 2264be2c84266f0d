"""What may happen between two lines: facts that come in while something is being decided or read."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from coordinator.domain.changes import Step
from coordinator.domain.instance import RunnerStatus, Status
from coordinator.domain.job import JobStatus
from coordinator.domain.timeline import Entry
from coordinator.store.catalog import WebhookOwner
from tests.samples.domain import event
from tests.samples.store import DOCUMENT, TWIN, WEBHOOK_SECRET, Sample, open_sample


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def test_one_repository_cannot_speak_of_another_ones_jobs(sample: Sample) -> None:
    genuine = await sample.queue(1)
    await sample.apply(TWIN)
    evil = await sample.entity_of("evil")
    await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 1, conclusion="success", entity_id=evil))
    assert await sample.store.history.job(genuine.id) == genuine


async def test_one_repository_cannot_hide_another_ones_jobs_by_naming_them_first(sample: Sample) -> None:
    await sample.apply(TWIN)
    evil = await sample.entity_of("evil")
    forged = await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 1, entity_id=evil))
    with structlog.testing.capture_logs() as logs:
        genuine = await sample.queue(1)
        await sample.queue(2)
    assert (genuine.status, genuine.entity_id) == (JobStatus.QUEUED, sample.entity_id)
    assert next(job.id for job in await sample.store.history.jobs(completed=False)) == genuine.id
    assert await sample.store.history.job(forged.id) == forged
    warned = [(line["forge_job_id"], line["others"]) for line in logs if line["log_level"] == "warning"]
    assert warned == [(1, [evil])]
    assert {job.id for job in await sample.store.history.jobs_called("1")} == {genuine.id, forged.id}


async def test_a_runner_that_came_up_meanwhile_is_not_retired_for_being_late(sample: Sample) -> None:
    instance = await sample.instance()
    await sample.store.instances.runner_said(instance.id, RunnerStatus.INSTALLING, "booted")
    await sample.store.instances.runner_said(instance.id, RunnerStatus.IDLE, "up")
    gone = await sample.store.instances.retire(instance.id, "late", failed=True, only_if=RunnerStatus.INSTALLING)
    assert not gone
    assert (await sample.now(instance)).status is Status.PENDING_CREATE
    assert await sample.store.instances.retire(instance.id, "surplus", only_if=RunnerStatus.IDLE)


async def test_a_deregistered_runner_goes_whatever_it_said_meanwhile_but_for_a_job(sample: Sample) -> None:
    up, taken = await sample.instance(1), await sample.instance(2)
    for instance in (up, taken):
        await sample.store.instances.runner_said(instance.id, RunnerStatus.INSTALLING, "booted")
        await sample.store.instances.runner_said(instance.id, RunnerStatus.IDLE, "up")
    await sample.store.instances.mark_busy(taken.id)
    job = await sample.queue(1)
    await sample.store.ledger.record(event(JobStatus.IN_PROGRESS, runner_name=taken.name, key=job.key))
    assert await sample.store.instances.retire(up.id, "surplus", only_free=True)
    assert not await sample.store.instances.retire(taken.id, "surplus", only_free=True)


async def test_a_planner_hears_of_the_runner_that_an_instance_was_given(sample: Sample) -> None:
    instance = await sample.instance()
    sample.store.feed.take()
    await sample.store.instances.configure_runner(instance.id, 7, {".runner": b"{}"})
    assert instance.id in sample.store.feed.take().instances


async def test_a_secret_that_was_read_before_a_change_is_not_kept_after_it(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = sample.store.catalog
    catalog.forget()
    read = catalog._repository
    may_go_on, has_read = asyncio.Event(), asyncio.Event()

    async def slowly(key: tuple[str, str, str]) -> WebhookOwner | None:
        found = await read(key)
        has_read.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(catalog, "_repository", slowly)
    reading = asyncio.create_task(catalog.repository("https://forge.example", "Octo", "Widgets"))
    await has_read.wait()
    await sample.apply(DOCUMENT.replace(WEBHOOK_SECRET, "a-new-webhook-secret-141421"))
    may_go_on.set()
    await reading
    owner = await catalog.repository("https://forge.example", "Octo", "Widgets")
    assert owner is not None
    assert owner.secret == b"a-new-webhook-secret-141421"


async def test_notes_that_come_while_others_are_written_are_written_too(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = sample.store.notes
    write = notes._write
    written: list[Entry] = []
    second = Entry(Step.DISPATCHED, sample.clock(), "", "second")

    async def writing(entries: list[Entry]) -> None:
        if not written:
            notes.add([second])
        written.extend(entries)
        await write(entries)

    monkeypatch.setattr(notes, "_write", writing)
    notes.add([Entry(Step.DISPATCHED, sample.clock(), "", "first")])
    async with asyncio.timeout(5):
        while second not in written:
            await asyncio.sleep(0.01)


async def test_notes_that_could_not_be_written_are_kept(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = sample.store.notes
    note = Entry(Step.DISPATCHED, sample.clock(), "", "first")

    async def failing(entries: list[Entry]) -> None:
        raise OSError(f"the disk is full, {len(entries)} entries are not written")

    with monkeypatch.context() as broken:
        broken.setattr(notes, "_write", failing)
        notes.add([note])
        with pytest.raises(OSError, match="disk is full"):
            await notes.flush()
    assert notes._entries == [note]
