"""The table of what should be against what is: total, and every answer makes sense."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.instance import GOING, Instance, Status
from coordinator.domain.reconcile import ACTION, STRAY, Action, Claim, Seen, StrayAction, Wanted, reconcile, wanted
from tests.samples.domain import calm, instance

PAIRS = list(itertools.product(Wanted, Seen))


def test_every_pair_has_an_answer_and_every_answer_a_pair() -> None:
    assert set(ACTION) == set(PAIRS)
    assert set(ACTION.values()) == set(Action)


@pytest.mark.parametrize(("should", "seen"), PAIRS)
def test_an_answer_fits_its_pair(should: Wanted, seen: Seen) -> None:
    action = ACTION[should, seen]
    there = seen is not Seen.ABSENT
    if action in (Action.DESTROY, Action.QUESTION):
        assert there
    if action is Action.DESTROY:
        assert should in (Wanted.ABSENT, Wanted.ENDED)
    if action is Action.QUESTION:
        assert should in (Wanted.ENDED, Wanted.UNKNOWN)
    if should is Wanted.UNKNOWN or (should is Wanted.ENDED and seen is Seen.RUNNING):
        assert action is (Action.QUESTION if there else Action.NOTHING)  # a runner in it may have a job
    if action is Action.CREATE:
        assert should is Wanted.CREATED
        assert seen in (Seen.ABSENT, Seen.CREATING)
    if action in (Action.ADOPT, Action.STOPPED):
        assert should in (Wanted.CREATED, Wanted.PRESENT)
        assert seen is (Seen.RUNNING if action is Action.ADOPT else Seen.STOPPED)
    if action in (Action.FORGET, Action.NOTHING):
        assert not there


def test_a_stray_is_destroyed_only_when_no_forge_calls_it_busy_and_one_could_be_asked() -> None:
    assert set(STRAY) == set(itertools.product((Wanted.ENDED, Wanted.UNKNOWN), Claim))
    assert set(STRAY.values()) == set(StrayAction)
    for (should, claim), action in STRAY.items():
        if action is StrayAction.DESTROY:
            assert claim is Claim.FREE or (should, claim) == (Wanted.ENDED, Claim.NOBODYS)
        assert (action is StrayAction.ASK_LATER) is (claim is Claim.BUSY)


@pytest.mark.parametrize("status", Status)
def test_every_status_is_wanted_somehow(status: Status) -> None:
    what = wanted(instance(status=status))
    if status in GOING:
        assert what is Wanted.ABSENT
    assert (what is Wanted.ENDED) is (status is Status.DELETED)
    assert what is not Wanted.UNKNOWN


def test_a_host_is_compared_machine_by_machine_and_agreement_is_silent() -> None:
    known = [
        instance(1, status=Status.RUNNING),
        instance(2, status=Status.RUNNING),
        instance(3, status=Status.DELETING),
        instance(4, status=Status.DELETED),
        instance(5),
        instance(6, status=Status.RUNNING),
    ]
    seen = {
        "instance-1": Seen.RUNNING,
        "instance-3": Seen.RUNNING,
        "instance-4": Seen.STOPPED,
        "instance-6": Seen.STOPPED,
        "a-stranger": Seen.RUNNING,
    }
    assert {d.instance_id: d.action for d in reconcile(known, seen)} == {
        "a-stranger": Action.QUESTION,
        "instance-1": Action.ADOPT,
        "instance-2": Action.GONE,
        "instance-3": Action.DESTROY,
        "instance-4": Action.DESTROY,
        "instance-5": Action.CREATE,
        "instance-6": Action.STOPPED,
    }
    assert reconcile([], {}) == []


known_ = st.lists(
    st.builds(lambda number, status: instance(number, status=status), st.integers(1, 6), st.sampled_from(Status)),
    unique_by=lambda one: one.id,
)
inventories = st.dictionaries(
    st.integers(1, 8).map(lambda number: f"instance-{number}"),
    st.sampled_from([s for s in Seen if s is not Seen.ABSENT]),
)


@calm
@given(known_, inventories, st.randoms())
def test_whatever_is_held_nothing_that_should_be_there_is_destroyed_and_nothing_is_missed(
    known: list[Instance], seen: dict[str, Seen], chance: random.Random
) -> None:
    by_id = {one.id: one for one in known}
    differences = reconcile(known, seen)
    actions = {d.instance_id: d.action for d in differences}
    assert len(actions) == len(differences)
    for instance_id, action in actions.items():
        should, held = wanted(by_id.get(instance_id)), seen.get(instance_id, Seen.ABSENT)
        if action is Action.DESTROY:
            assert should in (Wanted.ABSENT, Wanted.ENDED)
            assert held is not Seen.ABSENT
        if action is Action.CREATE:
            assert should is Wanted.CREATED  # never again what was seen to run, or what was deleted
        if action is Action.GONE:
            assert should is Wanted.PRESENT
    # What is held and not wanted is acted on, and so is what is wanted and not held.
    assert {i for i in seen if wanted(by_id.get(i)) not in (Wanted.CREATED, Wanted.PRESENT)} <= actions.keys()
    assert {i for i, one in by_id.items() if i not in seen and one.status is not Status.DELETED} <= actions.keys()
    chance.shuffle(known)
    assert reconcile(known, dict(chance.sample(sorted(seen.items()), len(seen)))) == differences
