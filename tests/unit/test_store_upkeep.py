"""Rows of lost hosts end, unless the host is back; what people say of hosts is kept, and refused where it must be."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.domain.changes import REFUSED, Phase, Step
from coordinator.domain.fleet import Admission
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.domain.planning.board import Board
from coordinator.domain.timeline import Entry
from coordinator.domain.world import Create, Plan, Policy
from coordinator.store import timelines
from coordinator.store.changed import Changes
from coordinator.store.enrolments import InvitationUsed
from coordinator.store.hosts import Pressure, UnknownHost
from coordinator.store.instances import PhaseFact
from coordinator.store.members import _let_go
from coordinator.store.schema import coordinators
from coordinator.store.upkeep import HostInUse, Removed
from tests.samples.store import Sample, open_bare, open_sample


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def leave(sample: Sample) -> None:
    await sample.store.hosts.left("host-1", 1, sample.clock())


async def steps(sample: Sample, machine: Instance) -> list[Step]:
    async with sample.store._database.read() as connection:
        return [entry.step for entry in await timelines.of(connection, "", machine.id)]


async def test_an_instance_of_a_lost_host_ends_with_its_reason_and_is_no_failure(sample: Sample) -> None:
    machine = await sample.instance()
    await leave(sample)
    await sample.store.upkeep.lose(machine.id, "its host is lost", only_if=machine.runner_status)
    ended = await sample.now(machine)
    assert (ended.status, ended.runner_status, ended.fault) == (
        Status.DELETED,
        RunnerStatus.TERMINATED,
        "its host is lost",
    )
    assert ended.generation > machine.generation  # a delete of it undoes its create
    assert Step.LOST in await steps(sample, machine)
    job = await sample.store.history.job("1")
    assert job is not None
    assert job.tries == 0
    assert await sample.store.instances.alive() == []


@pytest.mark.parametrize("first", [Phase.STOPPED, None])
async def test_where_the_host_is_back_the_machine_is_deleted_like_any_other(
    sample: Sample, first: Phase | None
) -> None:
    machine = await sample.instance()
    if first is not None:
        await sample.store.instances.record_phase(PhaseFact("host-1", machine.id, first, sample.clock()))
        machine = await sample.now(machine)
    await sample.store.upkeep.lose(machine.id, "its host is lost", only_if=machine.runner_status)
    assert (await sample.now(machine)).status is Status.PENDING_DELETE


async def test_one_whose_runner_has_changed_meanwhile_is_left_alone(sample: Sample) -> None:
    machine = await sample.instance()
    await leave(sample)
    await sample.store.upkeep.lose(machine.id, "its host is lost", only_if=RunnerStatus.IDLE)
    assert await sample.now(machine) == machine


async def test_since_when_a_host_is_away_counts_from_its_streams_end_and_anew_with_each_who_plans(
    tmp_path: Path,
) -> None:
    async with open_sample(tmp_path) as sample:
        sample.clock.move(hours=1)
        await leave(sample)
        assert (await sample.store.hosts.one("host-1")).disconnected_at == sample.clock()
        sample.clock.move(seconds=400)
        assert await sample.store.upkeep.lost(sample.clock() - Policy().host_lease) == {"host-1"}
        later = sample.clock.now + timedelta(hours=2)
    async with open_bare(tmp_path, kind=1) as again:  # nobody was there to be connected to
        again.clock.now = later
        await again.store.members.beat({})
        assert (await again.store.hosts.one("host-1")).disconnected_at == later
        assert not await again.store.upkeep.lost(later - Policy().host_lease)
        await again.store.hosts.present(again.host(), 1, "agent")
        assert (await again.store.hosts.one("host-1")).disconnected_at is None


async def test_a_coordinator_that_was_killed_leaves_its_hosts_the_whole_grace(tmp_path: Path) -> None:
    async with open_sample(tmp_path):
        pass  # it ends without a word
    async with open_bare(tmp_path, kind=1) as again:
        again.clock.move(days=1)
        await again.store.members.beat({})
        found = await again.store.hosts.one("host-1")
        assert (found.connected, found.disconnected_at) == (False, again.clock())


async def test_streams_of_one_that_was_taken_for_dead_for_long_are_to_be_presented_anew(sample: Sample) -> None:
    async def buried() -> None:
        async with sample.store._database.write() as connection:
            await connection.execute(sa.delete(coordinators))
            await _let_go(connection, sa.true(), sample.clock())

    await buried()
    sample.clock.move(seconds=10)
    await sample.store.members.beat({"host-1": 1})
    assert (await sample.store.hosts.one("host-1")).connected
    assert not sample.store.members.reclaimed
    await buried()
    sample.clock.move(seconds=70)
    await sample.store.members.beat({"host-1": 1, "host-2": 2})
    assert sample.store.members.reclaimed == {"host-1"}
    await sample.store.members.beat({"host-1": 1})
    assert not sample.store.members.reclaimed


# --- people ---


async def test_what_is_said_of_a_host_outlives_a_restart_and_its_agents(tmp_path: Path, database_url: str) -> None:
    deadline = None
    async with open_sample(tmp_path, database_url) as sample:
        deadline = sample.clock() + timedelta(minutes=30)
        await sample.store.upkeep.admit("host-1", Admission.DRAINING, "new disks", deadline)
    async with open_bare(tmp_path, database_url, kind=1) as again:
        await again.store.members.beat({})
        await again.store.hosts.present(again.host(), 1, "agent")
        (known,) = (await again.store.planning.world({})).hosts
        assert (known.admission, known.admission_reason, known.drain_deadline) == (
            Admission.DRAINING,
            "new disks",
            deadline,
        )


async def test_an_unknown_host_is_told_with_those_that_are_known(sample: Sample) -> None:
    with pytest.raises(UnknownHost, match=r"no host 'host-2' \(known are host-1\)"):
        await sample.store.upkeep.admit("host-2", Admission.CORDONED)
    with pytest.raises(UnknownHost):
        await sample.store.upkeep.remove("host-2", force=True)
    with pytest.raises(UnknownHost):
        await sample.store.hosts.one("host-2")


async def test_no_machine_is_committed_for_a_host_that_was_cordoned_or_removed_meanwhile(sample: Sample) -> None:
    job = await sample.queue()
    plan = Plan(creates=(Create(sample.pool, "host-1", job.id),))
    await sample.store.upkeep.admit("host-1", Admission.CORDONED)
    assert await sample.store.planning.commit(plan) == []
    await sample.store.upkeep.admit("host-1", Admission.OPEN)
    await leave(sample)
    await sample.store.upkeep.remove("host-1", force=False)
    assert await sample.store.planning.commit(plan) == []


async def test_a_host_is_removed_when_it_is_away_and_empty_or_by_force(sample: Sample) -> None:
    machine = await sample.instance()
    board = Board.of(await sample.store.planning.world({}))
    with pytest.raises(HostInUse, match="is connected without a certificate"):
        await sample.store.upkeep.remove("host-1", force=True)
    await leave(sample)
    with pytest.raises(HostInUse, match=r"has 1 instances \(see them with `hostler host show host-1`"):
        await sample.store.upkeep.remove("host-1", force=False)
    removed = await sample.store.upkeep.remove("host-1", force=True)
    assert removed == Removed([machine.name], connected=False, enrolled=False, invitations=0)
    assert (await sample.now(machine)).status is Status.DELETED
    assert await sample.store.hosts.all() == []
    await sample.store.planning.tell(board, Changes(hosts={"host-1"}, instances={machine.id}))
    assert not board.hosts
    assert not board.instances


async def test_with_a_host_go_its_enrolment_and_its_invitations_and_a_refusal_leaves_them(sample: Sample) -> None:
    kept, soon = sample.store.enrolments, sample.clock() + timedelta(hours=1)
    await kept.invite("host-1", "used", soon)
    await kept.enrol("host-1", "used", "enrolment")
    await kept.invite("host-1", "open", soon)
    await kept.invite("host-2", "another's", soon)
    machine = await sample.instance()
    with pytest.raises(HostInUse, match="has 1 instances"):
        await sample.store.upkeep.remove("host-1", force=False)
    assert await kept.ended(["enrolment"]) == set()
    sample.store.feed.take()
    removed = await sample.store.upkeep.remove("host-1", force=True)
    assert removed == Removed([machine.name], connected=True, enrolled=True, invitations=1)
    assert await kept.ended(["enrolment"]) == {"enrolment"}
    with pytest.raises(InvitationUsed, match="was withdrawn at"):
        await kept.enrol("host-1", "open", "again")
    with pytest.raises(UnknownHost):
        await sample.store.upkeep.remove("host-1", force=True)
    only_invited = await sample.store.upkeep.remove("host-2", force=False)
    assert only_invited == Removed([], connected=False, enrolled=False, invitations=1)


async def test_a_drained_host_is_one_that_drains_and_has_nothing_left(sample: Sample) -> None:
    told: asyncio.Queue[Entry] = asyncio.Queue()
    machine = await sample.instance()
    assert not await sample.store.upkeep.drained("host-1")
    await sample.store.upkeep.admit("host-1", Admission.DRAINING)
    assert not await sample.store.upkeep.drained("host-1")
    await sample.store.instances.record_phase(PhaseFact("host-1", machine.id, Phase.DELETED, sample.clock()))
    sample.store.feed._watchers.add(told)
    assert await sample.store.upkeep.drained("host-1")
    entry = told.get_nowait()
    assert (entry.step, entry.detail) == (Step.DRAINED, "host-1")
    assert (await sample.store.hosts.one("host-1")).admission is Admission.DRAINED
    assert not await sample.store.upkeep.drained("host-1")


# --- pressure ---


async def test_the_pressure_of_the_newest_stream_is_what_counts(sample: Sample) -> None:
    short = Pressure("disk_low", "1 GiB of disk available")
    await sample.store.hosts.press("host-1", 1, short)
    await sample.store.hosts.press("host-1", 99, Pressure())
    (known,) = (await sample.store.planning.world({})).hosts
    assert known.pressure == "1 GiB of disk available"
    await sample.store.hosts.present(sample.host(), 2, "agent")
    (known,) = (await sample.store.planning.world({})).hosts
    assert known.pressure == ""


@pytest.mark.parametrize(("code", "tries"), [(REFUSED, 0), ("create_failed", 1)])
async def test_a_refusal_under_pressure_frees_the_job_and_cools_nothing_down(
    sample: Sample, code: str, tries: int
) -> None:
    machine = await sample.instance()
    fact = PhaseFact("host-1", machine.id, Phase.FAILED, sample.clock(), "short of disk", error_code=code)
    await sample.store.instances.record_phase(fact)
    ended = await sample.now(machine)
    assert (ended.status, ended.fault) == (Status.PENDING_DELETE, "short of disk")
    job = await sample.store.history.job("1")
    assert job is not None
    assert job.tries == tries
    (known,) = (await sample.store.planning.world({})).hosts
    assert known.failures == tries
