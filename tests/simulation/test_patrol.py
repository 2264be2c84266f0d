"""What forges and clouds list against what should be there: the inspection at its post, and the patrol in a farm."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from coordinator.domain.fleet import Credentials
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.domain.job import JobStatus
from coordinator.domain.sightings import LONG_ABSENT, LONG_OFFLINE, ORPHAN_GRACE
from coordinator.forges.contract import ForgeRunner, ForgeUnavailable
from coordinator.forges.github import GitHub
from coordinator.store.rolls import Rolls
from providers.contract import ProviderError
from tests.forge_simulator.faults import RestFault, WebhookFaults
from tests.forge_simulator.records import ASKED_FOR, Runner
from tests.simulation.declarations import document
from tests.simulation.farm import REPOSITORY, Farm, farm, pool
from tests.simulation.post import FOREIGN, Post, guard_post


@pytest.fixture
async def post(tmp_path: Path) -> AsyncIterator[Post]:
    async with guard_post(tmp_path) as made:
        yield made


# --- runners that are gone from the forge ---


async def test_a_machine_whose_runner_the_forge_has_twice_not_listed_is_retired(post: Post) -> None:
    machine = await post.instance()
    post.forge._forge.remove_runner(machine.forge_runner_id)
    await post.look()
    assert await post.now(machine) == machine
    await post.look(seconds=59)
    assert await post.now(machine) == machine
    await post.look(seconds=1)
    assert (await post.now(machine)).status is Status.PENDING_DELETE


async def test_a_booting_machine_whose_runner_is_gone_is_retired_without_blame(post: Post) -> None:
    machine = await post.instance(online=False)
    post.forge._forge.remove_runner(machine.forge_runner_id)
    await post.look()
    await post.look(minutes=2)
    gone = await post.now(machine)
    assert (gone.status, gone.fault) == (Status.PENDING_DELETE, "")
    assert (await post.store.catalog.pool(machine.pool_id)).failures == 0


async def test_a_runner_that_is_not_registered_yet_is_not_missed(post: Post) -> None:
    machine = await post.instance(runner=False)
    for _ in range(3):
        await post.look(minutes=2)
    assert await post.now(machine) == machine


async def test_a_list_that_lags_once_costs_nobody_anything(post: Post) -> None:
    machine = await post.instance()
    listed = post.runner(machine)
    for _ in range(5):
        del post.forge._forge.runners[listed.id]
        await post.look(minutes=1)
        post.put(listed)
        await post.look(minutes=1)
    assert await post.now(machine) == machine


async def test_a_busy_runner_that_two_lists_lack_is_kept_for_the_forge_refuses_to_remove_it(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(_: GitHub) -> list[ForgeRunner]:
        return []

    machine = await post.instance()
    await post.begin_job(machine, told=False)
    monkeypatch.setattr(GitHub, "runners", nobody)
    for _ in range(3):
        await post.look(minutes=2)
    kept = await post.now(machine)
    assert (kept.status, kept.runner_status) == (Status.RUNNING, RunnerStatus.ACTIVE)
    assert machine.name in post.runners()


async def test_what_changed_while_the_list_was_read_is_not_acted_on(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await post.instance()
    job = await post.begin_job(machine, told=False)
    post.forge._forge.remove_runner(machine.forge_runner_id)

    async def slow(_: GitHub) -> list[ForgeRunner]:
        await post.store.ledger.record(post.sample.event(JobStatus.IN_PROGRESS, job.id, runner_name=machine.name))
        return []

    await post.look()
    monkeypatch.setattr(GitHub, "runners", slow)
    await post.look(minutes=2)
    kept = await post.now(machine)
    assert (kept.status, kept.runner_status) == (Status.RUNNING, RunnerStatus.ACTIVE)


async def test_a_machine_whose_job_ended_unheard_goes_and_the_ledger_learns_of_it(post: Post) -> None:
    machine = await post.instance()
    job = await post.begin_job(machine, told=True)
    assert (await post.now(machine)).runner_status is RunnerStatus.ACTIVE
    post.forge._forge._complete(post.forge.job(job.id), "failure")
    await post.look()
    assert (await post.now(machine)).status is Status.RUNNING
    await post.look(minutes=1)
    assert (await post.now(machine)).status is Status.PENDING_DELETE
    known = await post.store.history.job(str(job.id))
    assert known is not None
    assert (known.status, known.conclusion, known.instance_id) == (JobStatus.COMPLETED, "failure", machine.id)


async def test_a_token_that_may_not_look_at_jobs_keeps_that_machine_and_stops_nothing_else(post: Post) -> None:
    first, machine, last = [await post.instance() for _ in range(3)]
    job = await post.begin_job(machine, told=True)
    post.forge._forge._complete(post.forge.job(job.id), "success")
    for idle in (first, last):
        post.forge._forge.remove_runner(idle.forge_runner_id)
    without = post.forge.add_token(REPOSITORY, permissions={"administration": "write"}).value
    await post.sample.apply(document(post.forge, without, pools=[]))
    await post.look()
    with capture_logs() as logs:
        await post.look(minutes=1)
    assert (await post.now(machine)).status is Status.RUNNING
    assert [(await post.now(idle)).status for idle in (first, last)] == [Status.PENDING_DELETE] * 2
    (said,) = [line["error"] for line in logs if "which refuses" in line["event"]]
    assert "HTTP 403" in said
    assert "'Actions: read'" in said
    await post.sample.apply(
        document(post.forge, post.forge.add_token(REPOSITORY, permissions=ASKED_FOR).value, pools=[])
    )
    await post.look(minutes=1)
    assert (await post.now(machine)).status is Status.PENDING_DELETE


async def test_a_machine_whose_job_the_forge_says_runs_is_kept(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(_: GitHub) -> list[ForgeRunner]:
        return []

    machine = await post.instance()
    await post.begin_job(machine, told=True)
    active = await post.now(machine)
    monkeypatch.setattr(GitHub, "runners", nobody)
    for _ in range(5):
        await post.look(minutes=2)
    assert await post.now(machine) == active


async def job_that_nobody_knows(post: Post, *, told: bool) -> Instance:
    """The machine of a runner that had a job of which the forge says nothing any more, nor has its runner."""
    machine = await post.instance()
    job = await post.begin_job(machine, told=told)
    await post.store.instances.mark_busy(machine.id)
    post.forge._forge.remove_runner(machine.forge_runner_id)
    del post.forge._forge.jobs[job.id]
    return await post.now(machine)


@pytest.mark.parametrize("told", [True, False])
async def test_a_busy_machine_whose_job_nobody_knows_is_kept_for_long_but_not_for_ever(post: Post, told: bool) -> None:
    active = await job_that_nobody_knows(post, told=told)
    await post.look()
    await post.look(minutes=LONG_ABSENT.total_seconds() / 60 - 1)
    assert await post.now(active) == active
    await post.look(minutes=1)
    assert (await post.now(active)).status is Status.PENDING_DELETE


@pytest.mark.parametrize("told", [True, False])
async def test_a_busy_machine_is_kept_whose_runner_is_seen_now_and_then_or_found_by_its_name(
    post: Post, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = await job_that_nobody_knows(post, told=told)
    listed: list[ForgeRunner] = []
    runner = ForgeRunner(active.forge_runner_id, active.name, "online", True)

    async def runners(_: GitHub) -> list[ForgeRunner]:
        return listed

    async def named(_: GitHub, name: str) -> ForgeRunner | None:
        return runner if name == active.name else None

    monkeypatch.setattr(GitHub, "runners", runners)
    for listed in ([], [runner], []):  # noqa: B007 (`runners` returns it)
        await post.look(minutes=LONG_ABSENT.total_seconds() / 60)
        assert await post.now(active) == active
    monkeypatch.setattr(GitHub, "runner_named", named)
    await post.look(minutes=LONG_ABSENT.total_seconds() / 60)
    assert await post.now(active) == active


# --- runners that are listed ---


async def test_a_runner_that_the_forge_says_is_busy_is_busy_at_once(post: Post) -> None:
    machines = [await post.instance(), await post.instance()]
    await post.begin_job(machines[0], told=False)
    await post.look()
    assert [(await post.now(machine)).runner_status for machine in machines] == [RunnerStatus.ACTIVE, RunnerStatus.IDLE]


async def test_a_runner_long_offline_is_deregistered_and_its_machine_retired(post: Post) -> None:
    machine = await post.instance()
    post.put(_offline(post, machine))
    await post.look()
    await post.look(minutes=LONG_OFFLINE.total_seconds() / 60 - 1)
    assert await post.now(machine) == machine
    await post.look(minutes=1)
    assert (await post.now(machine)).status is Status.PENDING_DELETE
    assert machine.name not in post.runners()


async def test_a_runner_that_was_back_meanwhile_is_kept(post: Post) -> None:
    machine = await post.instance()
    up, down = post.runner(machine), _offline(post, machine)
    for state in (down, up, down, up, down):
        post.put(state)
        await post.look(minutes=8)
    assert await post.now(machine) == machine


async def test_a_booting_runner_may_be_offline_for_as_long_as_its_pool_lets_it(post: Post) -> None:
    machine = await post.instance(online=False)
    for _ in range(9):
        await post.look(minutes=5)
    assert await post.now(machine) == machine


def _offline(post: Post, machine: Instance) -> Runner:
    return replace(post.runner(machine), online=False)


# --- ghosts ---


async def test_a_runner_whose_machine_is_gone_is_removed_after_a_second_look(post: Post) -> None:
    machine = await post.instance()
    await post.end(machine)
    await post.look()
    assert post.runners() == sorted([FOREIGN, machine.name])
    await post.look(minutes=1)
    assert post.runners() == [FOREIGN]


async def test_a_runner_of_a_lost_answer_is_removed_when_its_machine_is_gone(post: Post) -> None:
    machine = await post.instance(runner=False)
    post.register(machine.name)
    await post.look()
    await post.look(minutes=2)
    assert machine.name in post.runners()
    await post.end(machine)
    await post.look(minutes=2)
    await post.look(minutes=2)
    assert post.runners() == [FOREIGN]


async def test_a_ghost_that_the_forge_thinks_is_busy_is_left_to_the_forge(post: Post) -> None:
    machine = await post.instance()
    await post.begin_job(machine, told=False)
    await post.end(machine)
    for _ in range(3):
        await post.look(minutes=2)
    assert machine.name in post.runners()


async def test_another_runner_of_a_known_name_is_not_ours(post: Post) -> None:
    machine = await post.instance()
    await post.end(machine)
    post.forge._forge.remove_runner(machine.forge_runner_id)
    post.register(machine.name)
    for _ in range(3):
        await post.look(minutes=2)
    assert machine.name in post.runners()


# --- a forge that fails ---


@pytest.mark.parametrize("status", [500, 403])
async def test_a_forge_that_cannot_be_listed_leads_to_nothing(post: Post, status: int) -> None:
    machine = await post.instance()
    post.forge._forge.remove_runner(machine.forge_runner_id)
    await post.look()
    post.forge.set_faults(RestFault(operation="list-runners", status=status))
    for _ in range(3):
        with pytest.raises(ForgeUnavailable):
            await post.look(minutes=2)
    assert await post.now(machine) == machine
    post.forge.set_faults()
    await post.look(minutes=2)
    assert (await post.now(machine)).status is Status.PENDING_DELETE


async def test_a_forge_that_lists_but_cannot_remove_keeps_the_machine(post: Post) -> None:
    machine = await post.instance()
    post.forge._forge.remove_runner(machine.forge_runner_id)
    post.forge.set_faults(RestFault(operation="delete-runner", status=502))
    await post.look()
    with pytest.raises(ForgeUnavailable):
        await post.look(minutes=1)
    assert await post.now(machine) == machine
    post.forge.set_faults()
    await post.look(minutes=1)
    assert (await post.now(machine)).status is Status.PENDING_DELETE


async def test_looking_registers_nothing_and_costs_no_budget(post: Post) -> None:
    await post.instance()
    credentials = (await post.store.catalog.entities())[0].credentials_id
    post.budgets.limit([Credentials(credentials, "bot", "forge", 5)])
    for _ in range(20):
        await post.look(minutes=2)
    assert post.budgets.now(post.clock())[credentials].calls == 5


# --- clouds ---


async def test_a_machine_that_its_cloud_has_twice_not_listed_has_vanished(post: Post) -> None:
    machine = await post.instance(cloud=True, online=False)
    post.remove_machine(machine.name)
    await post.look_at_cloud()
    assert await post.now(machine) == machine
    await post.look_at_cloud(minutes=1)
    gone = await post.now(machine)
    assert (gone.status, gone.fault) == (Status.PENDING_DELETE, "the machine is not in its cloud any more")
    assert machine.name not in post.runners()


async def test_a_vanished_machine_whose_runner_is_busy_is_kept_until_the_forge_ends_its_job(post: Post) -> None:
    machine = await post.instance(cloud=True)
    await post.begin_job(machine, told=False)
    post.remove_machine(machine.name)
    for _ in range(3):
        await post.look_at_cloud(minutes=2)
    kept = await post.now(machine)
    assert (kept.status, kept.runner_status) == (Status.RUNNING, RunnerStatus.ACTIVE)


async def test_a_machine_that_is_switched_off_is_retired(post: Post) -> None:
    machine = await post.instance(cloud=True)
    post.put_machine(machine.name, "stopped")
    await post.look_at_cloud()
    await post.look_at_cloud(minutes=1)
    assert (await post.now(machine)).status is Status.PENDING_DELETE


async def test_an_orphan_is_destroyed_after_its_grace_and_strangers_are_not(post: Post) -> None:
    orphan, stranger = "hostler-0123456789ab", "database"
    for name in (orphan, stranger):
        post.put_machine(name)
    post.register(orphan)
    await post.look_at_cloud()
    await post.look_at_cloud(minutes=ORPHAN_GRACE.total_seconds() / 60 - 1)
    assert post.in_cloud() == sorted([orphan, stranger])
    await post.look_at_cloud(minutes=1)
    assert post.in_cloud() == [stranger]
    assert post.runners() == [FOREIGN]


async def test_an_orphan_whose_runner_is_busy_is_kept(post: Post) -> None:
    machine = await post.instance(cloud=True)
    await post.begin_job(machine, told=False)
    await post.end(machine)
    for _ in range(5):
        await post.look_at_cloud(minutes=5)
    assert post.in_cloud() == [machine.name]


async def test_a_deleted_instance_that_is_still_there_is_deleted_again(post: Post) -> None:
    machine = await post.instance(cloud=True)
    await post.end(machine)
    await post.look_at_cloud()
    assert post.in_cloud() == [machine.name]
    await post.look_at_cloud(minutes=1)
    assert post.in_cloud() == []


async def test_a_machine_that_comes_while_the_list_is_read_is_no_orphan(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await post.instance(cloud=True)

    async def late(_: object, __: str) -> list[Instance]:
        return []  # the instance is made just after this was read

    monkeypatch.setattr(Rolls, "of_pool", late)
    for _ in range(4):
        await post.look_at_cloud(minutes=5)
    assert post.in_cloud() == [known.name]
    assert await post.now(known) == known


async def test_a_cloud_that_cannot_be_listed_leads_to_nothing(post: Post) -> None:
    machine = await post.instance(cloud=True)
    post.remove_machine(machine.name)
    await post.look_at_cloud()
    post.executable.write_text("#!/bin/sh\nexit 1\n")
    for _ in range(3):
        with pytest.raises(ProviderError):
            await post.look_at_cloud(minutes=2)
    assert await post.now(machine) == machine


async def test_a_forge_that_is_down_keeps_an_orphan_too(post: Post) -> None:
    post.put_machine("hostler-0123456789ab")
    post.forge.set_faults(RestFault(operation="*", status=500))
    await post.look_at_cloud()
    for _ in range(3):
        with pytest.raises(ForgeUnavailable):
            await post.look_at_cloud(minutes=5)
    assert post.in_cloud() == ["hostler-0123456789ab"]


# --- in a farm ---


async def _until(one: Farm, holds: Callable[[], object]) -> None:
    """Let time pass quickly until it holds: looks are seconds apart, and the clock is put forward in between."""
    async with asyncio.timeout(40):
        while not holds():
            await one.advance(timedelta(minutes=1))
            await asyncio.sleep(1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.engine.patrol._LEAST_GAP", timedelta(seconds=0.2))


async def test_a_job_whose_webhooks_all_got_lost_is_found_at_the_forge(tmp_path: Path) -> None:
    async with farm(tmp_path, patrol_seconds=1) as one:
        await one.declare(pool(more="min_idle_runners = 1"))
        await one.start_agent()
        one.guests.may_end.clear()
        await one.until_instance(lambda instance: instance.runner_status == "idle")
        one.forge.set_faults(webhooks=WebhookFaults(drop=1.0))
        one.queue()
        busy = await one.until_instance(lambda instance: instance.runner_status == "active")
        await one.until(lambda status: len(status.instances) == 2)  # another one is kept idle
        assert busy.id in {instance.id for instance in (await one.status()).instances}
        one.guests.may_end.set()


async def test_a_runner_left_behind_at_the_forge_goes_while_nothing_runs_any_more(tmp_path: Path) -> None:
    async with farm(tmp_path, patrol_seconds=1) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        job = one.queue()
        await one.forge.wait_until(lambda: one.forge.job(job.id).status == "in_progress")
        (runner,) = one.forge.runners(REPOSITORY)
        one.guests.may_end.set()
        await one.completed(job)
        await one.assert_nothing_left()
        one.forge._forge.runners[runner.id] = replace(runner, job_id=None, online=False)
        await _until(one, lambda: not one.forge.runners(REPOSITORY))
        assert len(one.created()) == 1
