"""Listings against instances: every pair is answered, strangers and the busy are left alone, one proves nothing."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.domain.sightings import (
    CLOUD,
    FORGE,
    LONG_OFFLINE,
    ORPHAN_GRACE,
    SECOND_LOOK,
    AtForge,
    InCloud,
    ListedMachine,
    ListedRunner,
    Machine,
    Runner,
    Sight,
    Suspicion,
    Verdict,
    at_forge,
    in_cloud,
    judge,
    machine_of,
    runner_of,
)
from tests.samples.domain import NOW, REPOSITORY, calm, idle, instance, pool

DESTRUCTIVE = set(Verdict) - {Verdict.NOTHING, Verdict.MARK_ACTIVE}
CLOUDY = pool("clouds", provider="cloud")


def booting(**more: Any) -> Instance:
    values: dict[str, Any] = {"status": Status.RUNNING, "forge_runner_id": 7}
    return instance(**values | more)


def active(**more: Any) -> Instance:
    return booting(**{"runner_status": RunnerStatus.ACTIVE, "job_id": "job-1"} | more)


def gone(**more: Any) -> Instance:
    return booting(**{"status": Status.DELETED, "runner_status": RunnerStatus.TERMINATED} | more)


def listed(one: Instance, state: AtForge, runner_id: int = 7) -> ListedRunner:
    return ListedRunner(runner_id, one.name, state)


def verdicts(one: Instance, *runners: ListedRunner) -> list[Verdict]:
    return [sight.rule.verdict for sight in at_forge(REPOSITORY, [one], runners)]


# --- the tables ---


def test_every_pair_is_answered_and_every_answer_is_given() -> None:
    assert set(FORGE) == {(ours, seen) for ours in Runner for seen in AtForge}
    assert set(CLOUD) == {(ours, seen) for ours in Machine for seen in InCloud}
    assert {rule.verdict for rule in (*FORGE.values(), *CLOUD.values())} == set(Verdict)


def test_a_runner_that_the_forge_says_is_busy_is_never_let_go() -> None:
    assert {FORGE[ours, AtForge.BUSY].verdict for ours in Runner} == {Verdict.NOTHING, Verdict.MARK_ACTIVE}


def test_strangers_are_left_alone_whatever_they_are_doing() -> None:
    assert {FORGE[Runner.STRANGER, seen].verdict for seen in AtForge} == {Verdict.NOTHING}
    assert {CLOUD[Machine.STRANGER, seen].verdict for seen in InCloud} == {Verdict.NOTHING}


def test_nothing_is_destroyed_before_a_second_look_and_all_that_is_says_why() -> None:
    for rule in (*FORGE.values(), *CLOUD.values()):
        if rule.verdict in DESTRUCTIVE:
            assert rule.patience >= SECOND_LOOK
            assert rule.reason


def test_what_an_active_runner_lacks_is_never_reason_enough() -> None:
    assert {FORGE[Runner.ACTIVE, seen].verdict for seen in AtForge} == {Verdict.NOTHING, Verdict.ASK_ABOUT_JOB}


# --- what is ours ---


@pytest.mark.parametrize(
    ("one", "believed"),
    [
        (instance(), Runner.UNREGISTERED),
        (instance(status=Status.RUNNING, runner_status=RunnerStatus.INSTALLING), Runner.UNREGISTERED),
        (booting(), Runner.BOOTING),
        (idle(forge_runner_id=7), Runner.IDLE),
        (idle(forge_runner_id=7, runner_status=RunnerStatus.OFFLINE), Runner.IDLE),
        (active(), Runner.ACTIVE),
        (booting(runner_status=RunnerStatus.TERMINATED), Runner.GOING),
        (booting(status=Status.PENDING_DELETE), Runner.GOING),
        (booting(status=Status.ERROR), Runner.GOING),
        (gone(), Runner.GONE),
    ],
)
def test_what_we_believe_of_a_runner(one: Instance, believed: Runner) -> None:
    assert runner_of(one, None) is believed
    assert runner_of(one, listed(one, AtForge.ONLINE)) is believed
    if one.forge_runner_id:
        assert runner_of(one, listed(one, AtForge.ONLINE, 8)) is Runner.STRANGER


def test_every_state_of_an_instance_is_some_belief() -> None:
    for status in Status:
        for runner_status in RunnerStatus:
            one = instance(status=status, runner_status=runner_status)
            assert runner_of(one, None) is not Runner.STRANGER
            assert machine_of(pool(), one.name, one) not in (Machine.STRANGER, Machine.ORPHAN)


@pytest.mark.parametrize("name", ["hostler-0123456789ab"])
def test_an_unknown_machine_is_ours_by_the_pool_s_own_form_of_name(name: str) -> None:
    assert machine_of(CLOUDY, name, None) is Machine.ORPHAN


@pytest.mark.parametrize(
    "name",
    ["hostler", "hostler-", "hostler-0123456789a", "hostler-0123456789abc", "hostler-0123456789AB", "web-0123456789ab",
     "my-hostler-0123456789ab", "hostler-0123456789ab\n", ""],
)  # fmt: skip
def test_any_other_unknown_machine_is_a_stranger(name: str) -> None:
    assert machine_of(CLOUDY, name, None) is Machine.STRANGER


def test_a_prefix_is_no_pattern() -> None:
    assert machine_of(pool(runner_prefix="a.c"), "abc-0123456789ab", None) is Machine.STRANGER


def test_a_machine_of_another_pool_is_left_to_that_pool() -> None:
    assert machine_of(CLOUDY, "x", idle(pool_id="another")) is Machine.STRANGER


# --- one listing ---


@pytest.mark.parametrize(
    ("one", "state", "verdict"),
    [
        (booting(), None, Verdict.RETIRE),
        (idle(forge_runner_id=7), None, Verdict.RETIRE),
        (active(), None, Verdict.ASK_ABOUT_JOB),
        (idle(forge_runner_id=7), AtForge.OFFLINE, Verdict.RETIRE),
        (idle(forge_runner_id=7), AtForge.BUSY, Verdict.MARK_ACTIVE),
        (booting(), AtForge.BUSY, Verdict.MARK_ACTIVE),
        (instance(), AtForge.BUSY, Verdict.MARK_ACTIVE),
        (gone(), AtForge.ONLINE, Verdict.REMOVE_RUNNER),
        (gone(forge_runner_id=0), AtForge.OFFLINE, Verdict.REMOVE_RUNNER),
    ],
)
def test_what_is_not_as_it_should_be_at_the_forge(one: Instance, state: AtForge | None, verdict: Verdict) -> None:
    assert verdicts(one, *([listed(one, state)] if state else [])) == [verdict]


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (instance(), None),
        (booting(), AtForge.OFFLINE),
        (idle(forge_runner_id=7), AtForge.ONLINE),
        (active(), AtForge.BUSY),
        (active(), AtForge.OFFLINE),
        (booting(status=Status.DELETING), AtForge.ONLINE),
        (gone(), None),
        (gone(), AtForge.BUSY),
    ],
)
def test_what_is_as_it_should_be_at_the_forge(one: Instance, state: AtForge | None) -> None:
    assert verdicts(one, *([listed(one, state)] if state else [])) == []


def test_runners_of_others_are_not_even_looked_at() -> None:
    other = ListedRunner(99, "somebody-else", AtForge.OFFLINE)
    of_another_entity = gone(entity_id="entity-2")
    assert at_forge(REPOSITORY, [], [other]) == []
    assert at_forge(REPOSITORY, [of_another_entity], [listed(of_another_entity, AtForge.OFFLINE)]) == []
    assert verdicts(gone(), listed(gone(), AtForge.OFFLINE, 8)) == []
    assert verdicts(idle(forge_runner_id=7), listed(idle(), AtForge.OFFLINE, 8)) == []


@pytest.mark.parametrize(
    ("one", "state", "verdict"),
    [
        (idle(pool_id=CLOUDY.id), None, Verdict.VANISHED),
        (active(pool_id=CLOUDY.id), None, Verdict.VANISHED),
        (idle(pool_id=CLOUDY.id), InCloud.STOPPED, Verdict.RETIRE),
        (idle(pool_id=CLOUDY.id), InCloud.THERE, None),
        (instance(pool_id=CLOUDY.id), None, None),
        (instance(pool_id=CLOUDY.id, status=Status.CREATING), None, None),
        (gone(pool_id=CLOUDY.id), InCloud.THERE, Verdict.DESTROY),
        (gone(pool_id=CLOUDY.id), None, None),
        (idle(pool_id=CLOUDY.id, status=Status.DELETING), None, None),
        (idle(pool_id=CLOUDY.id, status=Status.DELETING), InCloud.THERE, None),
    ],
)
def test_what_is_not_as_it_should_be_in_a_cloud(one: Instance, state: InCloud | None, verdict: Verdict | None) -> None:
    machines = [ListedMachine("id-1", one.name, state)] if state else []
    assert [sight.rule.verdict for sight in in_cloud(CLOUDY, [one], machines)] == ([verdict] if verdict else [])


def test_a_machine_that_nobody_knows_is_an_orphan_of_its_pool() -> None:
    machines = [ListedMachine("id-1", name, InCloud.THERE) for name in ("hostler-0123456789ab", "database")]
    (sight,) = in_cloud(CLOUDY, [], machines)
    assert (sight.name, sight.rule.verdict, sight.rule.patience) == (
        "hostler-0123456789ab", Verdict.DESTROY, ORPHAN_GRACE,
    )  # fmt: skip


def machines(one: Instance, **states: InCloud) -> list[ListedMachine]:
    return [ListedMachine(provider_id, one.name, state) for provider_id, state in states.items()]


def destroyed(one: Instance, **states: InCloud) -> list[str]:
    """The ids of machines that are to go while their instance stays."""
    sights = in_cloud(CLOUDY, [one], machines(one, **states))
    return [s.listed.provider_id for s in sights if s.rule.verdict is Verdict.DESTROY_TWIN and s.listed]  # type: ignore[union-attr]


THERE, STOPPED = InCloud.THERE, InCloud.STOPPED
ON_CLOUD: dict[str, Any] = {"pool_id": CLOUDY.id, "provider": "cloud", "host": "", "provider_id": "b"}


def test_of_two_machines_of_one_instance_none_has_called_and_the_one_goes_whose_id_was_not_given() -> None:
    one = booting(**ON_CLOUD)
    assert destroyed(one, a=THERE, b=THERE) == ["a"]
    assert destroyed(one, a=STOPPED, b=THERE) == ["a"]
    assert destroyed(one, a=THERE, b=THERE, c=THERE) == ["a", "c"]
    assert destroyed(one, b=THERE) == []
    assert destroyed(booting(**ON_CLOUD | {"provider_id": ""}), a=THERE, b=THERE) == []  # which was meant?


@pytest.mark.parametrize("runner_status", [RunnerStatus.INSTALLING, RunnerStatus.IDLE, RunnerStatus.ACTIVE])
def test_when_one_of_two_machines_has_called_only_one_that_is_off_goes_beside_one_that_is_on(
    runner_status: RunnerStatus,
) -> None:
    one = booting(**ON_CLOUD | {"runner_status": runner_status})
    assert destroyed(one, a=THERE, b=THERE) == []
    assert destroyed(one, a=STOPPED, b=THERE) == ["a"]
    assert destroyed(one, a=THERE, b=STOPPED) == ["b"]  # it is not known which has called
    sights = in_cloud(CLOUDY, [one], machines(one, a=STOPPED, b=STOPPED))
    assert [sight.rule.verdict for sight in sights] == [Verdict.RETIRE]


def test_while_a_create_is_under_way_and_when_an_instance_goes_there_are_no_twins() -> None:
    for status in (Status.CREATING, Status.PENDING_DELETE, Status.DELETING):
        assert destroyed(booting(**ON_CLOUD | {"status": status}), a=THERE, b=THERE) == []


def test_each_machine_of_a_deleted_instance_is_found_and_suspected_for_itself() -> None:
    one = gone(**ON_CLOUD)
    sights = in_cloud(CLOUDY, [one], machines(one, a=THERE, b=STOPPED))
    assert [sight.rule.verdict for sight in sights] == [Verdict.DESTROY] * 2
    suspected, proven = judge({}, sights[:1], NOW)
    assert proven == []
    _, proven = judge(suspected, sights, NOW + SECOND_LOOK)
    assert [sight.listed.provider_id for sight in proven if isinstance(sight.listed, ListedMachine)] == ["a"]


# --- one listing after another ---


def look(
    before: dict[str, Suspicion], after: timedelta, one: Instance, *runners: ListedRunner
) -> tuple[dict[str, Suspicion], list[Sight]]:
    return judge(before, at_forge(REPOSITORY, [one], runners), NOW + after)


def test_one_listing_proves_nothing_and_a_second_must_be_a_minute_later() -> None:
    one = idle(forge_runner_id=7)
    suspected, proven = look({}, timedelta(), one)
    assert proven == []
    suspected, proven = look(suspected, SECOND_LOOK - timedelta(seconds=1), one)
    assert proven == []
    _, proven = look(suspected, SECOND_LOOK, one)
    assert [sight.instance for sight in proven] == [one]


def test_a_listing_that_has_it_clears_it_of_suspicion() -> None:
    one = idle(forge_runner_id=7)
    suspected, _ = look({}, timedelta(), one)
    suspected, _ = look(suspected, timedelta(seconds=30), one, listed(one, AtForge.ONLINE))
    assert suspected == {}
    _, proven = look(suspected, timedelta(minutes=2), one)
    assert proven == []


def test_a_suspicion_of_another_kind_begins_anew() -> None:
    one = idle(forge_runner_id=7)
    suspected, _ = look({}, timedelta(), one)
    suspected, _ = look(suspected, timedelta(minutes=2), one, listed(one, AtForge.OFFLINE))
    _, proven = look(suspected, LONG_OFFLINE, one, listed(one, AtForge.OFFLINE))
    assert proven == []
    _, proven = look(suspected, LONG_OFFLINE + timedelta(minutes=2), one, listed(one, AtForge.OFFLINE))
    assert len(proven) == 1


def test_an_idle_runner_that_is_busy_is_believed_at_once() -> None:
    one = idle(forge_runner_id=7)
    _, proven = look({}, timedelta(), one, listed(one, AtForge.BUSY))
    assert [sight.rule.verdict for sight in proven] == [Verdict.MARK_ACTIVE]


def test_a_clock_that_goes_back_proves_nothing() -> None:
    one = idle(forge_runner_id=7)
    suspected, _ = look({}, timedelta(hours=2), one)
    suspected, proven = look(suspected, timedelta(), one)
    assert proven == []
    _, proven = look(suspected, SECOND_LOOK, one)
    assert len(proven) == 1


# --- whatever is listed ---

NAMES = ["hostler-00000000000a", "hostler-00000000000b", "database", "hostler-x"]
instances_ = st.lists(
    st.builds(
        lambda name, status, runner_status, runner_id, entity: instance(
            name=name, status=status, runner_status=runner_status, forge_runner_id=runner_id, entity_id=entity
        ),
        st.sampled_from(NAMES),
        st.sampled_from(Status),
        st.sampled_from(RunnerStatus),
        st.integers(0, 2),
        st.sampled_from([REPOSITORY, "entity-2"]),
    ),
    unique_by=lambda one: one.name,
    max_size=3,
)
runners_ = st.lists(
    st.builds(ListedRunner, st.integers(1, 2), st.sampled_from(NAMES), st.sampled_from(AtForge)),
    unique_by=lambda one: one.name,
    max_size=3,
).map(lambda all_: [one for one in all_ if one.state is not AtForge.ABSENT])
looks = st.lists(st.tuples(st.integers(0, 1300), instances_, runners_), min_size=1, max_size=6)


@calm
@given(looks)
def test_whatever_is_listed_nothing_is_acted_on_that_was_not_seen_so_before(
    seen: list[tuple[int, list[Instance], list[ListedRunner]]],
) -> None:
    suspected: dict[str, Suspicion] = {}
    now = NOW
    history: list[tuple[timedelta, dict[str, Verdict]]] = []
    for seconds, instances, runners in seen:
        now += timedelta(seconds=seconds)
        sights = at_forge(REPOSITORY, instances, runners)
        suspected, proven = judge(suspected, sights, now)
        history.append((now - NOW, {sight.name: sight.rule.verdict for sight in sights}))
        by_name = {runner.name: runner for runner in runners}
        for sight in proven:
            assert sight.instance in instances
            assert sight.instance is not None
            assert sight.instance.entity_id == REPOSITORY
            runner = by_name.get(sight.name)
            if sight.rule.verdict is Verdict.MARK_ACTIVE:
                continue
            assert runner is None or runner.state is not AtForge.BUSY
            assert runner is None or sight.instance.forge_runner_id in (0, runner.id)
            earlier = [at for at, verdicts in history if verdicts.get(sight.name) is sight.rule.verdict]
            assert (now - NOW) - earlier[0] >= SECOND_LOOK
            assert history[-2][1].get(sight.name) is sight.rule.verdict


cloud_instances = st.lists(
    st.builds(
        lambda name, status, runner_status, provider_id, pool_id: instance(
            name=name, status=status, runner_status=runner_status, provider_id=provider_id, pool_id=pool_id
        ),
        st.sampled_from(NAMES),
        st.sampled_from(Status),
        st.sampled_from(RunnerStatus),
        st.sampled_from(["", "id-1", "id-2"]),
        st.sampled_from([CLOUDY.id, "pool-other"]),
    ),
    unique_by=lambda one: one.name,
    max_size=3,
)
machines_ = st.lists(
    st.builds(
        ListedMachine,
        st.sampled_from(["id-1", "id-2", "id-3"]),
        st.sampled_from(NAMES),
        st.sampled_from([state for state in InCloud if state is not InCloud.ABSENT]),
    ),
    unique_by=lambda one: (one.name, one.provider_id),
    max_size=4,
)


@calm
@given(st.lists(st.tuples(st.integers(0, 1300), cloud_instances, machines_), min_size=1, max_size=6))
def test_whatever_a_cloud_lists_no_stranger_is_touched_and_of_an_instances_machines_one_stays(
    seen: list[tuple[int, list[Instance], list[ListedMachine]]],
) -> None:
    suspected: dict[str, Suspicion] = {}
    now = NOW
    for number, (seconds, instances, machines) in enumerate(seen):
        now += timedelta(seconds=seconds)
        suspected, proven = judge(suspected, in_cloud(CLOUDY, instances, machines), now)
        assert number or not any(sight.rule.patience for sight in proven)  # one look proves nothing that needs two
        by_name = {one.name: one for one in instances}
        destroyed: set[tuple[str, str]] = set()
        for sight in proven:
            one = by_name.get(sight.name)
            assert one is None or one.pool_id == CLOUDY.id
            assert one is not None or sight.name in NAMES[:2]  # by the pool's own form of name alone
            if sight.rule.verdict in (Verdict.DESTROY, Verdict.DESTROY_TWIN):
                assert isinstance(sight.listed, ListedMachine)
                destroyed.add((sight.name, sight.listed.provider_id))
        for one in instances:
            on = {(m.name, m.provider_id) for m in machines if m.name == one.name and m.state is InCloud.THERE}
            if one.pool_id == CLOUDY.id and one.status is Status.RUNNING and on:
                assert on - destroyed
