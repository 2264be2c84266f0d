"""Webhooks that are lost, doubled, late or out of order: every job ends completed and nothing is left."""

import time
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest

from tests.forge_simulator.faults import RestFault, WebhookFaults
from tests.forge_simulator.records import Job
from tests.forge_simulator.webhook_bodies import Action, workflow_job
from tests.forge_simulator.webhooks import Message
from tests.simulation.farm import REPOSITORY, Farm, farm

FORGETFUL = WebhookFaults(drop=1.0)


async def nothing() -> None:
    """A job that is done before its webhook is there."""


async def deliver(one: Farm, action: Action, job: Job) -> None:
    """Send one webhook of a job as it is now, and wait for the answer."""
    repository = one.forge._forge.repository(REPOSITORY)
    body = msgspec.json.encode(workflow_job(action, repository, job, one.forge.addresses))
    message = Message(hook=one.hook, guid="replayed", event="workflow_job", action=action, body=body)
    async with (
        aiohttp.ClientSession() as session,
        session.post(one.hook.url, data=body, headers=message.headers({})) as answer,
    ):
        assert answer.status == 200


async def test_a_job_ends_well_though_its_in_progress_was_lost(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        one.guests.may_boot.clear()
        job = one.queue()
        await one.until_instance(lambda instance: instance.status == "running")
        one.forge.set_faults(webhooks=FORGETFUL)
        one.guests.may_boot.set()
        await one.forge.wait_until(lambda: one.forge.job(job.id).status == "in_progress")
        one.forge.set_faults()
        assert (await one.job(job.id)).status == "queued"
        one.guests.may_end.set()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert (await one.job(job.id)).runner_name == done.runner_name
        assert len(one.created()) == 1


@pytest.mark.parametrize(
    "faults",
    [
        WebhookFaults(duplicate=1.0),
        WebhookFaults(delay=1.0, delay_seconds=0.3),
        WebhookFaults(reorder=0.5, reorder_seconds=0.5),
        WebhookFaults(duplicate=0.5, delay=0.5, delay_seconds=0.3, reorder=0.3, reorder_seconds=0.5),
    ],
    ids=["doubled", "delayed", "reordered", "all of it"],
)
async def test_ten_jobs_end_well_though_their_webhooks_come(tmp_path: Path, faults: WebhookFaults) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.work = nothing
        one.forge.set_faults(webhooks=faults, seed=7)
        done = await one.completed(*[one.queue() for _ in range(10)])
        await one.forge.webhooks.settle()
        await one.retire_the_idle()
        await one.assert_nothing_left()
        jobs = await one.jobs()
        assert {job.forge_job_id: job.runner_name for job in jobs} == {job.id: job.runner_name for job in done}


async def test_completed_before_in_progress_changes_nothing(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        job = one.queue()
        running = await one.until_instance(lambda instance: instance.runner_status == "active")
        in_progress = one.forge.job(job.id)
        one.guests.may_end.set()
        await one.completed(job)
        await one.assert_nothing_left()
        await deliver(one, "in_progress", in_progress)
        await deliver(one, "queued", job)
        await one.assert_nothing_left()
        told = await one.job(job.id)
        assert (told.status, told.runner_name, told.instance_id) == ("completed", running.name, running.id)
        assert one.created() == [running.name]


async def test_in_progress_before_queued_binds_the_job_once(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        first = one.queue()
        await one.until_instance(lambda instance: instance.runner_status == "active")
        one.forge.set_faults(webhooks=FORGETFUL)
        one.forge.cancel_job(first.id)  # its runner would be free, had it not been for one job
        one.guests.may_end.set()
        one.forge.set_faults()
        await deliver(one, "completed", one.forge.job(first.id))
        await one.assert_nothing_left()
        # A job another runner took, whose webhooks come in the wrong order.
        one.forge.set_faults(webhooks=FORGETFUL)
        second = one.queue()
        one.forge.set_faults()
        other = msgspec.structs.replace(second, status="in_progress", runner_id=1, runner_name="somebody-elses")
        await deliver(one, "in_progress", other)
        await deliver(one, "queued", second)
        await deliver(one, "in_progress", other)
        told = await one.job(second.id)
        assert (told.status, told.runner_name, told.instance_id) == ("in_progress", "somebody-elses", "")
        one.forge.cancel_job(second.id)
        await one.assert_nothing_left()
        assert len(one.created()) == 1


async def test_a_job_of_which_only_the_end_is_heard_makes_no_machine(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.forge.set_faults(webhooks=FORGETFUL)
        job = one.queue()
        one.forge.set_faults()
        one.forge.cancel_job(job.id)
        await one.forge.webhooks.settle()
        assert (await one.job(job.id)).status == "completed"
        await deliver(one, "queued", job)
        await one.assert_nothing_left()
        assert one.created() == []


async def ended_in_the_ledger(one: Farm, *jobs: Job) -> None:
    """Though nobody told of it: the forge is asked for what has not changed for a while."""
    await one.advance(timedelta(minutes=3))
    for job in jobs:

        async def ended(number: int = job.id) -> bool:
            return (await one.job(number)).status == "completed"

        await one.until_true(ended)


async def test_a_job_whose_webhooks_never_come_is_found_by_asking(tmp_path: Path) -> None:
    async with farm(tmp_path, poll_seconds=1) as one:
        await one.declare()
        await one.start_agent()
        one.forge.set_faults(webhooks=FORGETFUL)
        others = one.queue(["windows"])
        job = one.queue()
        (done,) = await one.completed(job)
        await ended_in_the_ledger(one, job)
        await one.assert_nothing_left()
        told = await one.job(job.id)
        assert (told.conclusion, told.runner_name) == ("success", done.runner_name)
        assert others.id not in {known.forge_job_id for known in await one.jobs()}  # no pool of ours serves it


async def test_a_job_whose_cancellation_never_comes_makes_no_machines_for_ever(tmp_path: Path) -> None:
    async with farm(tmp_path, poll_seconds=1) as one:
        await one.declare()
        job = one.queue()
        await one.until_waiting(job, "no agent offers")
        one.forge.set_faults(webhooks=FORGETFUL)
        one.forge.cancel_job(job.id)
        await ended_in_the_ledger(one, job)
        await one.assert_nothing_left()
        assert (await one.job(job.id)).conclusion == "cancelled"
        assert one.created() == []


async def test_polling_leaves_a_forge_alone_that_wants_it(tmp_path: Path) -> None:
    async with farm(tmp_path, poll_seconds=1) as one:
        await one.declare()
        await one.start_agent()
        one.forge.set_faults(
            RestFault(operation="list-runs", status=429, retry_after_seconds=3, times=1), webhooks=FORGETFUL
        )
        began = time.monotonic()
        job = one.queue()
        await one.completed(job)
        assert time.monotonic() - began > 2.5
        await ended_in_the_ledger(one, job)
        await one.assert_nothing_left()
