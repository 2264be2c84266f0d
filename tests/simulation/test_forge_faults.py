"""A forge that fails, refuses, is slow or loses its answers."""

from datetime import timedelta
from pathlib import Path

from tests.forge_simulator.faults import RestFault, WebhookFaults
from tests.simulation.farm import REPOSITORY, farm, pool

JIT = "generate-jitconfig"


async def test_a_forge_that_fails_three_times_is_asked_again_and_no_machine_is_lost(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.forge.set_faults(RestFault(operation=JIT, status=500, times=3))
        await one.completed(one.queue())
        await one.assert_nothing_left()
        assert len(one.created()) == 1


async def test_a_refusal_ends_the_instance_with_the_reason_and_the_job_is_served_later(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        one.guests.may_boot.clear()
        await one.take_away_the_permission()
        provider.faults.deletes_failing = 2  # holds the instance for long enough to look at it
        job = one.queue()
        refused = await one.until_instance(lambda instance: instance.fault)
        assert "no runner configuration" in refused.fault or "the delete fails" in refused.fault
        await one.until_waiting(job, "rests until")
        await one.declare()
        one.guests.may_boot.set()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert len(one.created()) >= 2
        assert done.runner_name != refused.name


async def test_the_pool_rests_longer_each_time_it_is_refused(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_boot.clear()
        await one.take_away_the_permission()
        job = one.queue()
        reasons = [await one.until_waiting(job, f"after {number} failures") for number in (1, 2, 3)]
        assert len(set(reasons)) == 3
        one.guests.may_boot.set()
        await one.declare()
        await one.completed(job)
        await one.assert_nothing_left()
        assert len(one.created()) >= 4


async def test_a_guest_that_is_quicker_than_the_forge_waits_for_its_configuration(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.forge.set_faults(RestFault(operation=JIT, delay_seconds=2))
        (done,) = await one.completed(one.queue())
        await one.assert_nothing_left()
        assert 1 < one.guests.waited_seconds[str(done.runner_name)] < 4
        assert len(one.created()) == 1


async def test_a_lost_answer_to_a_registration_leaves_no_second_runner(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.forge.set_faults(RestFault(operation=JIT, status=502, after=True, times=1))
        await one.completed(one.queue())
        await one.assert_nothing_left()
        assert len(one.created()) == 1


async def test_a_runner_registered_in_vain_is_removed_though_its_configuration_never_came(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        one.guests.may_boot.clear()
        one.forge.set_faults(RestFault(operation=JIT, status=502, after=True, times=1))
        job = one.queue()
        made = await one.until_instance(lambda instance: instance.status == "running")
        await one.forge.wait_until(lambda: len(one.forge.runners(REPOSITORY)) == 1)
        one.forge.cancel_job(job.id)
        await provider.die(made.name)
        await one.assert_nothing_left()


async def test_a_runner_that_cannot_be_removed_at_once_is_removed_later(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        one.guests.may_boot.clear()
        job = one.queue()
        made = await one.until_instance(lambda instance: instance.status == "running")
        await one.forge.wait_until(lambda: len(one.forge.runners(REPOSITORY)) == 1)
        one.forge.set_faults(RestFault(operation="delete-runner", status=503, times=2))
        one.forge.cancel_job(job.id)
        await provider.die(made.name)
        await one.assert_nothing_left()


async def test_an_idle_looking_machine_is_kept_when_the_forge_says_it_is_busy(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_boot.clear()
        one.guests.may_end.clear()
        first = one.queue()
        await one.until_instance(lambda instance: instance.status == "running")
        one.forge.cancel_job(first.id)
        one.guests.may_boot.set()
        idle = await one.until_instance(lambda instance: instance.runner_status == "idle")
        one.forge.set_faults(webhooks=WebhookFaults(drop=1.0))
        second = one.queue()  # nobody hears of it, but the idle runner takes it
        await one.forge.wait_until(lambda: one.forge.job(second.id).status == "in_progress")
        one.forge.set_faults()
        await one.advance(timedelta(minutes=3))
        kept = await one.until_instance(lambda instance: instance.runner_status == "active")
        assert (kept.id, kept.status) == (idle.id, "running")
        await one.advance(timedelta(minutes=30))
        assert [instance.id for instance in (await one.status()).instances] == [idle.id]
        one.guests.may_end.set()
        await one.completed(second)
        await one.assert_nothing_left()
        assert len(one.created()) == 1


async def test_a_forge_that_is_down_when_an_idle_machine_should_go_is_asked_again(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare(pool(max_runners=1))
        await one.start_agent()
        one.guests.may_boot.clear()
        job = one.queue()
        await one.until_instance(lambda instance: instance.status == "running")
        one.forge.cancel_job(job.id)
        one.guests.may_boot.set()
        await one.until_instance(lambda instance: instance.runner_status == "idle")
        one.forge.set_faults(RestFault(operation="delete-runner", status=500))
        await one.advance(timedelta(minutes=3))
        assert len((await one.status()).instances) == 1  # nothing is known of it, so it is kept
        one.forge.set_faults()
        await one.advance(timedelta(seconds=1))
        await one.assert_nothing_left()
