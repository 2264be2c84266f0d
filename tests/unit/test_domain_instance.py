"""The tables of an instance's states: every pair is answered, every state is reached and left."""

import itertools
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from coordinator.domain.instance import (
    NEXT,
    NEXT_RUNNER,
    IllegalTransition,
    RunnerStatus,
    Status,
    advance,
    can,
    can_runner,
)
from tests.samples.domain import NOW, idle, instance

LATER = NOW + timedelta(seconds=5)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Status, Status)))
def test_a_status_takes_the_steps_of_the_table_and_no_other(old: Status, new: Status) -> None:
    one = instance(status=old)
    if new is old:
        assert advance(one, LATER, status=new) == one
    elif new in NEXT[old]:
        assert can(one, new)
        after = advance(one, LATER, status=new)
        assert (after.status, after.changed_at) == (new, LATER)
    else:
        assert not can(one, new)
        with pytest.raises(IllegalTransition, match=f"{one.name}: {old} cannot become {new}"):
            advance(one, LATER, status=new)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(RunnerStatus, RunnerStatus)))
def test_a_runner_takes_the_steps_of_the_table_and_no_other(old: RunnerStatus, new: RunnerStatus) -> None:
    one = instance(runner_status=old)
    if new is old:
        assert advance(one, LATER, runner_status=new) == one
    elif new in NEXT_RUNNER[old]:
        assert can_runner(one, new)
        assert advance(one, LATER, runner_status=new).runner_status is new
    else:
        assert not can_runner(one, new)
        with pytest.raises(IllegalTransition):
            advance(one, LATER, runner_status=new)


@pytest.mark.parametrize(
    ("table", "first", "last"),
    [(NEXT, Status.PENDING_CREATE, Status.DELETED), (NEXT_RUNNER, RunnerStatus.PENDING, RunnerStatus.TERMINATED)],
)
def test_every_state_is_reached_and_the_end_is_reached_from_it(table: Mapping[Any, Any], first: Any, last: Any) -> None:
    assert set(table) == set(type(first).__members__.values())
    assert _reached(table, first) == set(table)
    assert all(last in _reached(table, state) for state in table)
    assert table[last] == frozenset()
    assert all(state not in following for state, following in table.items())


def _reached(table: Mapping[Any, Any], first: Any) -> set[Any]:
    reached, todo = {first}, [first]
    while todo:
        fresh = table[todo.pop()] - reached
        reached |= fresh
        todo += fresh
    return reached


def test_a_delete_is_a_younger_command_than_the_create_and_counts_once() -> None:
    going = advance(idle(), LATER, status=Status.PENDING_DELETE)
    assert going.generation == 2
    assert advance(going, LATER, status=Status.PENDING_FORCE_DELETE).generation == 2
    assert advance(going, LATER, status=Status.DELETING).generation == 2


def test_the_time_of_idleness_is_when_it_began() -> None:
    up = advance(instance(status=Status.RUNNING), LATER, runner_status=RunnerStatus.IDLE)
    assert up.idle_since == LATER
    assert advance(up, LATER + timedelta(hours=1), status=Status.STOPPED).idle_since == LATER


def test_a_fault_is_kept_by_steps_that_bring_none() -> None:
    failed = advance(instance(), LATER, status=Status.ERROR, fault="no disk")
    assert advance(failed, LATER, status=Status.PENDING_DELETE).fault == "no disk"


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("runner_status", RunnerStatus)
def test_only_coming_and_idle_runners_cover_demand(status: Status, runner_status: RunnerStatus) -> None:
    coming = status in (Status.PENDING_CREATE, Status.CREATING, Status.RUNNING)
    untaken = runner_status not in (RunnerStatus.ACTIVE, RunnerStatus.FAILED, RunnerStatus.TERMINATED)
    one = instance(status=status, runner_status=runner_status)
    assert one.serves_demand is (coming and untaken)
    assert not msgspec.structs.replace(one, job_id="job-1").serves_demand
