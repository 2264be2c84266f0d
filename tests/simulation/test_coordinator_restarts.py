"""The coordinator stopped, or killed, at every moment of a job's way: nothing is lost, nothing is made twice."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator.engine.local import LocalExecutor
from providers.simulated import SimulatedSettings
from tests.forge_simulator.faults import RestFault
from tests.simulation.farm import REPOSITORY, Farm, farm

SLOW = SimulatedSettings(disk_seconds=0.3, start_seconds=0.7)


async def started(one: Farm, *, killed: bool) -> None:
    await (one.start_coordinator_process() if killed else one.start_coordinator())


async def restarted(one: Farm, *, killed: bool) -> None:
    """Machines run on meanwhile."""
    before = one.guests.running()
    if killed:
        await one.kill("coordinator")
    else:
        await one.stop("coordinator")
    assert before <= one.guests.running() or one.guests.may_end.is_set()
    await started(one, killed=killed)


def one_machine_for_each(one: Farm, jobs: int) -> bool:
    names = [boot.name for boot in one.guests.booted]
    return len(names) == len(set(names)) == jobs


async def test_it_stops_in_no_time_with_streams_open_and_a_guest_that_waits(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.forge.set_faults(RestFault(operation="generate-jitconfig", hang=True, times=1))
        job = one.queue()
        await one.until_instance(lambda instance: instance.runner_status == "installing")
        async with asyncio.timeout(1):
            await one.stop("coordinator")
        await one.start_coordinator()
        await one.completed(job)
        await one.assert_nothing_left()


both_ways = pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])


@both_ways
async def test_a_job_that_waits_for_a_host_is_not_forgotten(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await started(one, killed=killed)
        await one.declare()
        job = one.queue()
        await one.until_waiting(job, "no agent offers the provider")
        await restarted(one, killed=killed)
        await one.until_waiting(job, "no agent offers the provider")
        await one.start_agent()
        await one.completed(job)
        await one.assert_nothing_left()
        assert one_machine_for_each(one, 1)


async def test_an_instance_that_was_planned_and_never_sent_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> None:
        return

    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        with monkeypatch.context() as crippled:
            crippled.setattr(LocalExecutor, "create", nothing)
            job = one.queue()
            planned = await one.until_instance(lambda instance: instance.status == "pending_create")
            await one.stop("coordinator")
        await one.start_coordinator()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert one.created() == [planned.name] == [done.runner_name]


@both_ways
async def test_a_machine_under_way_is_not_made_twice(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await started(one, killed=killed)
        await one.declare()
        await one.start_agent(settings=SLOW)
        jobs = [one.queue() for _ in range(3)]
        await one.until(lambda status: [i.status for i in status.instances] == ["creating"] * 3)
        one.guests.may_boot.clear()  # so that no webhook falls into the outage
        await restarted(one, killed=killed)
        one.guests.may_boot.set()
        await one.completed(*jobs)
        await one.assert_nothing_left()
        assert one_machine_for_each(one, 3)


@both_ways
async def test_a_booting_machine_comes_to_its_job(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await started(one, killed=killed)
        await one.declare()
        await one.start_agent()
        one.guests.may_boot.clear()
        job = one.queue()
        await one.until_instance(lambda instance: instance.status == "running")
        await restarted(one, killed=killed)
        one.guests.may_boot.set()
        await one.completed(job)
        await one.assert_nothing_left()
        assert one_machine_for_each(one, 1)


@both_ways
async def test_a_registration_cut_in_the_middle_leaves_no_second_runner(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await started(one, killed=killed)
        await one.declare()
        await one.start_agent()
        one.forge.set_faults(RestFault(operation="generate-jitconfig", hang=True, after=True, times=1))
        job = one.queue()
        await one.forge.wait_until(lambda: len(one.forge.runners(REPOSITORY)) == 1)
        await one.until_instance(lambda instance: instance.status == "running")
        await restarted(one, killed=killed)
        await one.completed(job)
        await one.assert_nothing_left()
        assert one_machine_for_each(one, 1)


@both_ways
async def test_running_jobs_end_well(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await started(one, killed=killed)
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        jobs = [one.queue() for _ in range(3)]
        await one.until(lambda status: [i.runner_status for i in status.instances] == ["active"] * 3)
        await restarted(one, killed=killed)
        await one.until_host_connected()
        one.guests.may_end.set()
        await one.completed(*jobs)
        await one.assert_nothing_left()
        assert one_machine_for_each(one, 3)


@both_ways
async def test_a_job_that_ended_in_the_outage_leaves_no_machine(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await started(one, killed=killed)
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        job = one.queue()
        await one.until_instance(lambda instance: instance.runner_status == "active")
        await (one.kill("coordinator") if killed else one.stop("coordinator"))
        one.guests.may_end.set()
        await one.completed(job)
        await one.forge.webhooks.settle()
        await started(one, killed=killed)
        await one.until(lambda status: status.hosts and not status.instances)
        (missed,) = [one_of for one_of in one.forge.deliveries(one.hook) if one_of.status_code != 200]
        one.forge.webhooks.redeliver(missed, one.hook)
        await one.assert_nothing_left()
        assert one_machine_for_each(one, 1)


@both_ways
async def test_a_delete_under_way_is_finished(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await started(one, killed=killed)
        await one.declare()
        provider = await one.start_agent()
        provider.faults.deletes_failing = 10_000
        await one.completed(one.queue())
        await one.until_instance(lambda instance: instance.status == "deleting")
        await restarted(one, killed=killed)
        await one.until_host_connected()
        provider.faults.deletes_failing = 0
        await one.assert_nothing_left()
        assert one_machine_for_each(one, 1)


@both_ways
async def test_twenty_jobs_come_through_an_outage_in_the_midst_of_them(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await started(one, killed=killed)
        await one.declare()
        providers = [await one.start_agent(host, vcpus_for_each=4.0) for host in ("host-1", "host-2")]
        one.guests.may_boot.clear()
        jobs = [one.queue() for _ in range(20)]
        await one.forge.webhooks.settle()
        await one.until_true(lambda: len(one.guests.booted) >= 8)
        await restarted(one, killed=killed)
        one.guests.may_boot.set()
        await one.completed(*jobs)
        await one.assert_nothing_left()
        assert one_machine_for_each(one, 20)
        assert all(provider.most_at_once <= 8 for provider in providers)


async def test_everything_killed_at_once_comes_back(tmp_path: Path) -> None:
    async with farm(tmp_path, coordinated=False) as one:
        await one.start_coordinator_process()
        await one.declare()
        await one.start_agent_process()
        one.guests.may_end.clear()
        job = one.queue()
        active = await one.until_instance(lambda instance: instance.runner_status == "active")
        await one.kill("coordinator")
        await one.kill("host-1")
        await one.start_coordinator_process()
        await one.start_agent_process()
        one.guests.may_end.set()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert done.runner_name == active.name
        assert one_machine_for_each(one, 1)
