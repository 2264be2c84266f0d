"""Hosts that are away or are to be emptied: both tables are total, and the planner keeps to them."""

import itertools
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.absence import OF_ABSENCE, OF_DRAIN, Doing, Emptying, Fate, Presence, doing, presence
from coordinator.domain.fleet import Admission, Host
from coordinator.domain.instance import COMING, Instance, RunnerStatus, Status
from coordinator.domain.planner import plan, plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment, Plan, Policy, Way
from tests.samples.domain import NOW, calm, host, idle, instance, job, pool, world

POLICY = Policy()
GRACE, LEASE = POLICY.host_grace, POLICY.host_lease
SECOND = timedelta(seconds=1)


def away(length: timedelta, name: str = "host-1", **more: Any) -> Host:
    return host(name, connected=False, disconnected_at=NOW - length, **more)


def busy(number: int = 1, **more: Any) -> Instance:
    fields = {"status": Status.RUNNING, "runner_status": RunnerStatus.ACTIVE, "job_id": f"job-{number}"}
    return instance(number, **fields | more)


def going(number: int = 1, **more: Any) -> Instance:
    return instance(number, status=Status.DELETING, runner_status=RunnerStatus.TERMINATED, **more)


def ways(decided: Plan) -> dict[str, Way]:
    return {retire.instance_id: retire.way for retire in decided.retires}


def test_every_pair_has_a_fate_and_every_fate_a_pair() -> None:
    assert set(OF_ABSENCE) == set(itertools.product(Presence, Doing))
    assert set(OF_DRAIN) == set(itertools.product(Emptying, Doing))
    assert set(OF_ABSENCE.values()) | set(OF_DRAIN.values()) == set(Fate)


def test_what_is_busy_is_stopped_by_a_deadline_alone() -> None:
    fates = {pair: fate for table in (OF_ABSENCE, OF_DRAIN) for pair, fate in table.items() if pair[1] is Doing.BUSY}
    assert {pair: fate for pair, fate in fates.items() if fate is not Fate.KEEP} == {
        (Emptying.OVERDUE, Doing.BUSY): Fate.STOP
    }


def test_a_row_ends_unasked_only_where_its_runner_has_ended_and_its_host_is_lost() -> None:
    assert [pair for pair, fate in OF_ABSENCE.items() if fate is Fate.END] == [(Presence.LOST, Doing.GOING)]
    assert Fate.END not in OF_DRAIN.values()
    assert Fate.LOSE not in OF_DRAIN.values()


@pytest.mark.parametrize(
    ("length", "where"),
    [
        (timedelta(), Presence.AWAY),
        (GRACE - SECOND, Presence.AWAY),
        (GRACE, Presence.MISSING),
        (LEASE - SECOND, Presence.MISSING),
        (LEASE, Presence.LOST),
        (timedelta(days=30), Presence.LOST),
    ],
)
def test_a_host_is_away_then_missing_then_lost(length: timedelta, where: Presence) -> None:
    assert presence(away(length), NOW, GRACE, LEASE) is where
    assert presence(host(), NOW, GRACE, LEASE) is Presence.HERE


def test_of_a_host_of_which_nobody_knows_since_when_it_is_away_nothing_is_concluded() -> None:
    assert presence(host(connected=False), NOW, GRACE, LEASE) is Presence.AWAY


@given(st.sampled_from(Status), st.sampled_from(RunnerStatus), st.booleans())
def test_every_instance_does_something(status: Status, runner: RunnerStatus, has_job: bool) -> None:
    what = doing(instance(status=status, runner_status=runner, job_id="job-1" if has_job else ""))
    assert (what is Doing.GOING) is (status not in COMING)
    if status in COMING and (has_job or runner is RunnerStatus.ACTIVE):
        assert what is Doing.BUSY


# --- absence ---


@pytest.mark.parametrize("machine", [instance(), instance(status=Status.CREATING), idle()])
def test_a_machine_of_a_missing_host_covers_no_job(machine: Instance) -> None:
    hosts = (away(GRACE - SECOND), host("host-2"))
    board = Board.of(world((job(),), (machine,), hosts=hosts))
    before = plan_on(board, Moment(NOW))
    assert not before.creates
    assert before.wake_at is not None
    assert before.wake_at <= NOW + SECOND  # by its own timer, not by a tick
    after = plan_on(board, Moment(NOW + SECOND))
    assert [create.host for create in after.creates] == ["host-2"]
    assert not after.retires


def test_a_missing_host_that_comes_back_is_counted_on_again() -> None:
    board = Board.of(world((job(),), (idle(),), hosts=(away(GRACE), host("host-2"))))
    assert plan_on(board, Moment(NOW)).creates
    board.put_host(host())
    assert not plan_on(board, Moment(NOW)).creates


def test_a_lost_host_holds_nothing_but_what_is_busy() -> None:
    here = (instance(1), idle(2), busy(3), going(4), instance(5, status=Status.ERROR))
    board = Board.of(world((), here, hosts=(away(LEASE - SECOND), host("host-2"))))
    early = plan_on(board, Moment(NOW))
    assert not early.retires
    decided = plan_on(board, Moment(NOW + SECOND))
    assert ways(decided) == {
        "instance-1": Way.LOST,
        "instance-2": Way.LOST,
        "instance-4": Way.ENDED,
        "instance-5": Way.ENDED,
    }


def test_pending_deletes_of_a_host_that_never_comes_back_end_and_free_their_pool() -> None:
    gone = tuple(going(number, host="dead") for number in range(5))
    hosts = (away(timedelta(days=30), "dead"), host("ok"))
    decided = plan(world((job(),), gone, hosts=hosts), NOW)
    assert [wait.code for wait in decided.waits] == ["no_room"]  # the pool's five are in use, on paper
    assert set(ways(decided).values()) == {Way.ENDED}
    assert [create.host for create in plan(world((job(),), (), hosts=hosts), NOW).creates] == ["ok"]


def test_a_bootstrap_time_that_is_over_on_a_lost_host_is_no_failure_of_the_pool() -> None:
    late = instance(bootstrap_deadline=NOW - SECOND)
    (retire,) = plan(world((), (late,), hosts=(away(LEASE),)), NOW).retires
    assert (retire.way, retire.failed) == (Way.LOST, False)


def test_min_idle_is_kept_elsewhere_while_a_host_is_missing() -> None:
    pools = (pool(min_idle=1),)
    hosts = (away(GRACE), host("host-2"))
    decided = plan(world((), (idle(),), pools, hosts), NOW)
    assert [create.host for create in decided.creates] == ["host-2"]


def test_a_removed_host_is_forgotten() -> None:
    board = Board.of(world((job(),), (), hosts=(host(), host("host-2"))))
    board.drop_host("host-1")
    assert [create.host for create in plan_on(board, Moment(NOW)).creates] == ["host-2"]
    board.drop_host("host-2")
    (wait,) = plan_on(board, Moment(NOW)).waits
    assert "no agent offers the provider" in wait.reason


@calm
@given(st.data())
def test_a_board_that_is_told_of_hosts_as_they_come_and_go_equals_a_new_one(data: st.DataObject) -> None:
    lengths = st.sampled_from([None, timedelta(), GRACE, LEASE, timedelta(minutes=2)])
    admissions = st.sampled_from(Admission)

    def some_host(name: str) -> Host:
        length = data.draw(lengths)
        found = host(name) if length is None else away(length, name)
        return msgspec.structs.replace(found, admission=data.draw(admissions), drain_deadline=NOW + GRACE)

    def some_instance(number: int) -> Instance:
        kind = data.draw(st.sampled_from([instance, idle, busy, going]))
        made: Instance = kind(number, host=data.draw(st.sampled_from(["host-1", "host-2"])))
        return made

    machines = tuple(some_instance(number) for number in range(6))
    jobs = tuple(job(number) for number in range(10, 14))
    pools = (pool(max_runners=20),)
    board = Board.of(world(jobs, machines, pools, (some_host("host-1"), some_host("host-2"))))
    now = NOW
    for _ in range(4):
        now += data.draw(st.sampled_from([SECOND, GRACE, timedelta(minutes=3)]))
        told = plan_on(board, Moment(now))
        hosts = tuple(board.hosts[name] for name in sorted(board.hosts))
        fresh = plan(world(jobs, tuple(board.instances.values()), pools, hosts), now)
        assert (told.creates, told.waits, set(told.retires), told.drained) == (
            fresh.creates,
            fresh.waits,
            set(fresh.retires),
            fresh.drained,
        )
        board.put_host(some_host(data.draw(st.sampled_from(["host-1", "host-2"]))))
        board.put_instance(some_instance(data.draw(st.integers(0, 7))))


# --- cordon, drain, pressure ---


@pytest.mark.parametrize(
    ("closed", "reason"),
    [
        ({"admission": Admission.CORDONED}, "host host-1 is cordoned"),
        ({"admission": Admission.CORDONED, "admission_reason": "noise"}, "host host-1 is cordoned (noise)"),
        ({"admission": Admission.DRAINING, "admission_reason": "disks"}, "host host-1 is draining (disks)"),
        ({"admission": Admission.DRAINED}, "host host-1 is drained"),
        ({"pressure": "3 GiB of disk available, 5 wanted"}, "takes nothing more: 3 GiB of disk available, 5 wanted"),
    ],
)
def test_a_closed_host_gets_nothing_and_jobs_say_why(closed: dict[str, Any], reason: str) -> None:
    board = Board.of(world((job(),), (), hosts=(host(**closed),)))
    decided = plan_on(board, Moment(NOW))
    assert not decided.creates
    assert reason in why_waiting(board, decided, "job-1")
    board.put_host(host())
    assert plan_on(board, Moment(NOW)).creates


def test_a_cordoned_host_goes_on_with_what_it_has() -> None:
    here = (instance(1), idle(2), busy(3), going(4))
    decided = plan(world((job(1), job(2)), here, hosts=(host(admission=Admission.CORDONED),)), NOW)
    assert not decided.retires
    assert not decided.creates  # both are covered


def test_a_drain_lets_idle_ones_go_at_once_and_busy_ones_end() -> None:
    here = (instance(1), idle(2), busy(3), going(4))
    draining = host(admission=Admission.DRAINING)
    decided = plan(world((), here, hosts=(draining,)), NOW + timedelta(days=3))
    assert {one: way for one, way in ways(decided).items() if one != "instance-1"} == {"instance-2": Way.ASKING}
    assert ways(decided)["instance-1"] is Way.ASKING
    assert not decided.drained
    assert plan(world((), (), hosts=(draining,)), NOW).drained == ("host-1",)


def test_a_deadline_stops_what_is_busy_when_it_is_over_and_not_before() -> None:
    draining = host(admission=Admission.DRAINING, drain_deadline=NOW + SECOND)
    board = Board.of(world((), (busy(),), hosts=(draining,)))
    before = plan_on(board, Moment(NOW))
    assert not before.retires
    assert before.wake_at == NOW + SECOND
    assert ways(plan_on(board, Moment(NOW + SECOND))) == {"instance-1": Way.STOPPED}


def test_a_draining_host_that_is_lost_is_treated_as_lost() -> None:
    gone = away(LEASE, admission=Admission.DRAINING, drain_deadline=NOW - SECOND)
    decided = plan(world((), (busy(1), going(2), idle(3)), hosts=(gone,)), NOW)
    assert ways(decided) == {"instance-2": Way.ENDED, "instance-3": Way.LOST}
