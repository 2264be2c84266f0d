"""The way of jobs through the whole farm, with simulated machines."""

from collections import Counter
from datetime import timedelta
from pathlib import Path

from tests.simulation.farm import farm, pool

STEPS = [
    "webhook",
    "committed",
    "planned",
    "dispatched",
    "accepted",
    "disk",
    "started",
    "booted",
    "runner online",
    "job running",
    "completed",
    "destroyed",
]


async def test_a_queued_job_gets_a_machine_of_its_own_which_is_gone_afterwards(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        queued = one.queue()
        (done,) = await one.completed(queued)
        await one.assert_nothing_left()
        job = await one.job(queued.id)
        assert job.status == "completed"
        assert job.runner_name == done.runner_name
        seen = [entry.step for entry in job.timeline]
        assert [step for step in STEPS if step not in seen] == []


async def test_four_jobs_run_at_once_each_in_its_own_machine(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        one.guests.may_end.clear()
        jobs = [one.queue() for _ in range(4)]
        await one.forge.wait_until(lambda: all(one.forge.job(job.id).status == "in_progress" for job in jobs))
        one.guests.may_end.set()
        done = await one.completed(*jobs)
        await one.assert_nothing_left()
        assert len({job.runner_name for job in done}) == 4
        assert sorted(one.created()) == sorted(str(job.runner_name) for job in done)
        assert provider.most_at_once == 4


async def test_forty_jobs_on_two_small_hosts_are_all_served_and_no_host_is_ever_overfull(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        providers = [await one.start_agent(host, vcpus_for_each=2.0) for host in ("host-1", "host-2")]
        capacity = {host.name: host.capacity.vcpus for host in (await one.status()).hosts}
        done = await one.completed(*[one.queue() for _ in range(40)])
        await one.assert_nothing_left()
        assert len({job.runner_name for job in done}) == 40
        assert Counter(Counter(one.created()).values()) == {1: 40}
        for host, provider in zip(("host-1", "host-2"), providers, strict=True):
            assert 1 <= provider.most_at_once <= capacity[host]


async def test_a_job_no_pool_fits_waits_with_its_reason_until_one_is_declared(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        job = one.queue(["self-hosted", "gpu"])
        reason = await one.until_waiting(job, "no pool of its repository has all its labels")
        assert "gpu" in reason
        assert one.created() == []
        await one.declare(pool("gpus", labels=["self-hosted", "gpu"]))
        await one.completed(job)
        await one.assert_nothing_left()
        assert (await one.job(job.id)).waiting_reason == ""
        assert len(one.created()) == 1


async def test_a_pool_has_never_more_than_its_most_runners(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare(pool(max_runners=2))
        provider = await one.start_agent()
        one.guests.may_end.clear()
        jobs = [one.queue() for _ in range(5)]
        await one.until_waiting(jobs[-1], "all its 2 runners are in use")
        assert len((await one.status()).instances) == 2
        one.guests.may_end.set()
        await one.completed(*jobs)
        await one.assert_nothing_left()
        assert provider.most_at_once == 2
        assert len(one.created()) == 5


async def test_the_machine_of_a_job_cancelled_while_queued_is_retired_when_idle_for_long(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_boot.clear()
        job = one.queue()
        await one.until_instance(lambda instance: instance.status == "running")
        one.forge.cancel_job(job.id)
        one.guests.may_boot.set()
        await one.until_instance(lambda instance: instance.runner_status == "idle")
        await one.advance(timedelta(seconds=100))
        assert len((await one.status()).instances) == 1
        await one.advance(timedelta(seconds=30))
        await one.assert_nothing_left()
        assert (await one.job(job.id)).conclusion == "cancelled"


async def test_an_idle_machine_takes_the_next_job(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_boot.clear()
        first = one.queue()
        await one.until_instance(lambda instance: instance.status == "running")
        one.forge.cancel_job(first.id)
        one.guests.may_boot.set()
        await one.until_instance(lambda instance: instance.runner_status == "idle")
        await one.completed(one.queue())
        await one.assert_nothing_left()
        assert len(one.created()) == 1


async def test_jobs_cancelled_before_their_machines_are_made_leave_nothing(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        for job in [one.queue() for _ in range(4)]:
            one.forge.cancel_job(job.id)
        await one.forge.webhooks.settle()
        await one.until(lambda status: all(i.runner_status == "idle" for i in status.instances))
        await one.advance(timedelta(minutes=3))
        await one.assert_nothing_left()


async def test_fifty_jobs_one_after_the_other_are_dispatched_quickly(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        took = []
        for _ in range(50):
            job = one.queue()
            await one.completed(job)
            await one.until(lambda status: not status.instances)
            at = {entry.step: entry.at.ToDatetime() for entry in reversed((await one.job(job.id)).timeline)}
            took.append((at["dispatched"] - at["webhook"]).total_seconds() * 1000)
        await one.assert_nothing_left()
        took.sort()
        print(f"webhook to dispatched over 50 jobs: p50 {took[24]:.1f} ms, p99 {took[49]:.1f} ms")
        assert took[24] < 500
