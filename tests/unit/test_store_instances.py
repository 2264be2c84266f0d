"""Instances in the store: phases, calls of their guests, secrets handed out once, and plans that came too late."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from coordinator.domain.changes import Phase, Step
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.domain.job import JobStatus
from coordinator.domain.planner import plan, plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Create, Moment, Plan, Policy
from coordinator.store.changed import Changes
from coordinator.store.edits import POOL
from coordinator.store.instances import AlreadyTakenError, PhaseFact
from coordinator.store.lease import LeaseLost
from coordinator.store.schema import instances
from tests.samples.store import DOCUMENT, Sample, open_sample

FILES = {".runner": b"settings", ".credentials": b"hush"}


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def _reach(
    sample: Sample, instance: Instance, *phases: Phase, host: str = "host-1", detail: str = ""
) -> Instance:
    for phase in phases:
        await sample.store.instances.record_phase(PhaseFact(host, instance.id, phase, sample.clock(), detail))
    return await sample.now(instance)


async def _say(sample: Sample, instance: Instance, status: RunnerStatus, message: str = "") -> Instance | None:
    return await sample.store.instances.runner_said(instance.id, status, message)


async def _files(sample: Sample, instance: Instance) -> bytes | None:
    async with sample.store._database.read() as connection:
        query = sa.select(instances.c.runner_files).where(instances.c.id == instance.id)
        found: bytes | None = (await connection.execute(query)).scalar_one()
    return found


async def test_a_machine_goes_its_way(sample: Sample) -> None:
    machine = await sample.instance()
    assert (await _reach(sample, machine, Phase.ACCEPTED)).status is Status.CREATING
    assert (await _reach(sample, machine, Phase.DISK, Phase.STARTED)).status is Status.RUNNING
    assert (await _reach(sample, machine, Phase.STOPPED)).status is Status.PENDING_DELETE
    assert (await _reach(sample, machine, Phase.DELETED)).status is Status.DELETED
    assert await sample.store.instances.alive() == []


async def test_phases_of_another_host_are_ignored(sample: Sample) -> None:
    machine = await sample.instance()
    for host in ("host-2", ""):
        assert await _reach(sample, machine, *Phase, host=host) == machine
    await sample.store.instances.record_phase(PhaseFact("host-1", "unknown", Phase.DELETED, sample.clock()))


async def test_a_repeated_phase_is_in_the_timeline_once(sample: Sample) -> None:
    machine = await sample.instance()
    facts = [PhaseFact("host-1", machine.id, Phase.STARTED, sample.clock()) for _ in range(5)]
    await asyncio.gather(*map(sample.store.instances.record_phase, facts))
    await _reach(sample, machine, Phase.STARTED)
    job = await sample.store.history.job("1")
    assert job is not None
    taken = await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, runner_name=machine.name))
    steps = [entry.step for entry in await sample.store.history.timeline(taken)]
    assert steps.count(Step.STARTED) == 1


async def test_a_failed_machine_cools_its_host_and_machines_that_fail_together_count_once(sample: Sample) -> None:
    for machine in [await sample.instance(number) for number in (1, 2, 3)]:
        await _reach(sample, machine, Phase.FAILED, detail="no disk")
    world = await sample.store.planning.world({})
    assert world.hosts[0].failures == 1
    assert world.hosts[0].cool_until == sample.clock() + timedelta(seconds=0.5)
    assert world.pools[0].failures == 0
    sample.clock.move(minutes=1)
    for machine in world.instances:
        await _reach(sample, machine, Phase.DELETED)
    await _reach(sample, await sample.instance(4), Phase.FAILED)
    assert (await sample.store.planning.world({})).hosts[0].failures == 2


async def test_a_machine_that_stops_early_cools_its_pool_and_one_that_comes_up_heals_both(sample: Sample) -> None:
    await _reach(sample, await sample.instance(1), Phase.ACCEPTED, Phase.STARTED, Phase.STOPPED)
    assert (await sample.store.catalog.pools())[0].failures == 1
    machine = await sample.instance(2)
    await _reach(sample, machine, Phase.ACCEPTED, Phase.STARTED)
    await _say(sample, machine, RunnerStatus.IDLE)
    pool = (await sample.store.catalog.pools())[0]
    assert (pool.failures, pool.cool_until) == (0, None)


async def test_what_a_guest_says_is_taken_step_by_step(sample: Sample) -> None:
    machine = await sample.instance()
    assert await _say(sample, machine, RunnerStatus.INSTALLING, "booted") is not None
    assert await _say(sample, machine, RunnerStatus.INSTALLING, "still") is not None
    assert await _say(sample, machine, RunnerStatus.PENDING) is None
    up = await _say(sample, machine, RunnerStatus.IDLE)
    assert up is not None
    assert (up.runner_status, up.idle_since) == (RunnerStatus.IDLE, sample.clock())
    assert await sample.now(machine) == up
    assert await sample.store.instances.runner_said("unknown", RunnerStatus.IDLE, "") is None


async def test_a_guest_that_failed_is_sent_away_and_its_pool_cools(sample: Sample) -> None:
    machine = await sample.instance()
    await _say(sample, machine, RunnerStatus.FAILED, "no network")
    failed = await sample.now(machine)
    assert (failed.status, failed.runner_status) == (Status.PENDING_DELETE, RunnerStatus.TERMINATED)
    assert failed.fault == "no network"
    assert (await sample.store.catalog.pools())[0].failures == 1


async def test_each_file_of_a_runner_is_handed_out_once(sample: Sample) -> None:
    machine = await sample.instance()
    assert await sample.store.instances.take_runner_file(machine.id, ".runner") is None
    await sample.store.instances.configure_runner(machine.id, 7, FILES)
    assert (await sample.now(machine)).forge_runner_id == 7
    answers = await asyncio.gather(
        *(sample.store.instances.take_runner_file(machine.id, ".runner") for _ in range(8)), return_exceptions=True
    )
    assert [answer for answer in answers if not isinstance(answer, AlreadyTakenError)] == [b"settings"]
    assert await sample.store.instances.take_runner_file(machine.id, ".credentials") == b"hush"
    with pytest.raises(KeyError):
        await sample.store.instances.take_runner_file(machine.id, ".credentials_rsaparams")


@pytest.mark.parametrize("end", [RunnerStatus.IDLE, RunnerStatus.FAILED, Phase.DELETED])
async def test_a_runners_files_are_gone_when_it_is_up_or_will_never_be(
    sample: Sample, end: RunnerStatus | Phase
) -> None:
    machine = await sample.instance()
    await sample.store.instances.configure_runner(machine.id, 7, FILES)
    assert await _files(sample, machine)
    if isinstance(end, Phase):
        await _reach(sample, machine, end)
    else:
        await _say(sample, machine, end)
    assert await _files(sample, machine) is None
    assert await sample.store.instances.take_runner_file(machine.id, ".runner") is None


async def test_an_instance_is_retired_once(sample: Sample) -> None:
    machine = await sample.instance()
    assert await sample.store.instances.retire(machine.id, "not needed")
    assert not await sample.store.instances.retire(machine.id, "not needed")
    assert not await sample.store.instances.retire("unknown", "not needed")
    retired = await sample.now(machine)
    assert (retired.status, retired.generation, retired.fault) == (Status.PENDING_DELETE, 2, "")
    other = await sample.instance(2)
    assert await sample.store.instances.retire(other.id, "never came", failed=True)
    assert (await sample.now(other)).fault == "never came"
    assert (await sample.store.catalog.pools())[0].failures == 1


async def test_a_command_is_begun_only_while_it_still_makes_sense(sample: Sample) -> None:
    machine = await sample.instance()
    first = await sample.store.instances.begin(machine.id, Status.CREATING)
    again = await sample.store.instances.begin(machine.id, Status.CREATING)
    assert first is not None
    assert again is not None
    assert (first.before, again.before) == (False, True)
    assert first.instance == again.instance
    await sample.store.instances.retire(machine.id, "not needed")
    assert await sample.store.instances.begin(machine.id, Status.CREATING) is None
    assert await sample.store.instances.begin(machine.id, Status.DELETING) is not None


async def test_what_is_for_the_planning_coordinator_to_begin_is_refused_to_another(sample: Sample) -> None:
    machine = await sample.instance()
    sample.store.lease.lose()
    with pytest.raises(LeaseLost):
        await sample.store.instances.begin(machine.id, Status.CREATING, fenced=True)
    assert (await sample.now(machine)).status is Status.PENDING_CREATE


# --- plans ---


async def test_a_plan_is_made_of_what_is_there_and_names_are_unique(sample: Sample) -> None:
    for number in range(1, 5):
        await sample.queue(number)
    decided = plan(await sample.store.planning.world({}), sample.clock())
    made = await sample.store.planning.commit(decided)
    assert len(made) == 3
    assert len({machine.name for machine in made}) == 3
    assert all(machine.name.startswith("hostler-") and len(machine.name) == 20 for machine in made)
    assert [wait.code for wait in decided.waits] == ["no_room"]
    world = await sample.store.planning.world({})
    assert sorted(world.instances, key=lambda i: i.id) == sorted(made, key=lambda i: i.id)
    assert plan(world, sample.clock()).creates == ()


async def test_an_unconnected_host_is_told_as_such(sample: Sample) -> None:
    assert (await sample.store.planning.world({})).hosts[0].connected
    await sample.store.hosts.left("host-1", 1, sample.clock())
    assert not (await sample.store.planning.world({})).hosts[0].connected


@pytest.mark.parametrize("status", [JobStatus.IN_PROGRESS, JobStatus.COMPLETED])
async def test_a_create_whose_job_went_away_is_left_out(sample: Sample, status: JobStatus) -> None:
    kept, gone = await sample.queue(1), await sample.queue(2)
    decided = Plan(creates=(Create(sample.pool, "host-1", gone.id), Create(sample.pool, "host-1", kept.id)))
    await sample.store.ledger.record(sample.event(status, 2))
    sample.store.feed.take()
    assert len(await sample.store.planning.commit(decided)) == 1
    assert sample.store.feed.work.is_set()  # what was left out is thought over again
    assert sample.store.feed.take().jobs == {gone.id}


async def test_a_planner_that_is_out_of_step_is_put_right_by_what_it_plans_in_vain(sample: Sample) -> None:
    """Its board has a job that is no more, and lacks machines that fill the pool."""
    board = Board(Policy(), {})
    await sample.store.planning.tell(board, Changes(catalog=True, hosts={"host-1"}))
    jobs = [await sample.queue(number) for number in range(1, 6)]
    await sample.store.planning.commit(Plan(creates=tuple(Create(sample.pool, "host-1", job.id) for job in jobs[:3])))
    board.put_job(jobs[4])
    board.put_job(msgspec.structs.replace(jobs[3], id="pruned"))
    for _ in range(3):
        sample.store.feed.take()
        decided = plan_on(board, Moment(sample.clock()))
        if not decided.creates:
            break
        assert await sample.store.planning.commit(decided) == []
        assert sample.store.feed.work.is_set()
        await sample.store.planning.tell(board, sample.store.feed.take())
    assert decided.creates == ()
    assert len(board.instances) == 3
    assert "pruned" not in board.waiting


async def test_a_removed_pool_makes_no_machine_though_the_board_still_knows_it(sample: Sample) -> None:
    await sample.queue(1)
    board = Board.of(await sample.store.planning.world({}))
    assert len(plan_on(board, Moment(sample.clock())).creates) == 1
    await sample.store.edits.remove(POOL, sample.pool.id)
    changes = sample.store.feed.take()
    assert changes.everything
    await sample.store.planning.tell(board, changes)
    assert plan_on(board, Moment(sample.clock())).creates == ()


async def test_a_create_whose_pool_is_full_or_disabled_is_left_out(sample: Sample) -> None:
    jobs = [await sample.queue(number) for number in range(1, 6)]
    creates = [Create(sample.pool, "host-1", job.id) for job in jobs]
    assert len(await sample.store.planning.commit(Plan(creates=tuple(creates[:2])))) == 2
    assert len(await sample.store.planning.commit(Plan(creates=tuple(creates[2:])))) == 1
    assert await sample.store.planning.commit(Plan(creates=(creates[4],))) == []
    await sample.apply(DOCUMENT.replace("max_runners = 3", "max_runners = 9\nenabled = false"))
    assert await sample.store.planning.commit(Plan(creates=(creates[4],))) == []
    unknown = msgspec.structs.replace(sample.pool, id="gone")
    assert await sample.store.planning.commit(Plan(creates=(Create(unknown, "host-1", jobs[4].id),))) == []


async def test_a_host_that_presents_itself_again_keeps_its_failures(sample: Sample) -> None:
    await _reach(sample, await sample.instance(), Phase.FAILED)
    record = (await sample.store.hosts.all())[0]
    await sample.store.hosts.present(msgspec.structs.replace(record, agent_version="1"), 2, "agent")
    assert [host.agent_version for host in await sample.store.hosts.all()] == ["1"]
    assert (await sample.store.planning.world({})).hosts[0].failures == 1


async def test_a_console_is_kept_and_replaced(sample: Sample) -> None:
    assert await sample.store.hosts.console("instance") is None
    await sample.store.hosts.keep_console("instance", b"first", truncated=False)
    await sample.store.hosts.keep_console("instance", b"second" * 1000, truncated=True)
    assert await sample.store.hosts.console("instance") == (b"second" * 1000, True)


async def test_configurations_that_arrive_together_are_each_kept_for_their_own_and_tell_who_was_sent_away(
    sample: Sample,
) -> None:
    machines = [await sample.instance(number) for number in range(3)]
    await sample.store.instances.retire(machines[1].id, "not needed")
    coming = await asyncio.gather(
        *(
            sample.store.instances.configure_runner(machine.id, 100 + number, {".runner": b"of %d" % number})
            for number, machine in enumerate(machines)
        )
    )
    assert coming == [True, False, True]
    for number, machine in enumerate(machines):
        assert (await sample.now(machine)).forge_runner_id == 100 + number
        assert await sample.store.instances.take_runner_file(machine.id, ".runner") == b"of %d" % number


async def test_a_job_that_a_runner_has_taken_waits_no_more_when_only_its_machine_is_told_of(sample: Sample) -> None:
    """Else a machine is made for the job that is alike, and has one."""
    taker, other = await sample.instance(1), await sample.instance(2)
    for machine in (taker, other):
        await _reach(sample, machine, Phase.ACCEPTED, Phase.DISK, Phase.STARTED)
    board = Board.of(await sample.store.planning.world({}))
    assert len(board.waiting) == 2
    await _say(sample, taker, RunnerStatus.IDLE)
    await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, 1, runner_name=taker.name))
    await sample.store.planning.tell(board, Changes(instances={taker.id}))
    assert board.waits(other.for_job)
    assert not board.waits(taker.for_job)
    assert plan_on(board, Moment(sample.clock())).creates == ()
