"""What facts do to instances: they come in any order, again and again, and still end well."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.changes import PHASE_STEP, Phase, finish, on_job, on_phase
from coordinator.domain.instance import GOING, Instance, RunnerStatus, Status
from coordinator.domain.job import JobStatus
from tests.samples.domain import NOW, calm, idle, instance, job

Fact = Callable[[Instance, datetime], Instance]


def phase(which: Phase, detail: str = "") -> Fact:
    return lambda one, now: on_phase(one, which, now, detail).instance


def job_is(status: JobStatus, number: int = 1) -> Fact:
    return lambda one, now: on_job(one, job(number, status=status, runner_name=one.name), now)


PHASES = {f"phase {which}": phase(which, f"detail of {which}") for which in Phase}
JOBS = {f"job {status}": job_is(status) for status in JobStatus} | {
    "another job": job_is(JobStatus.IN_PROGRESS, 2),
    "the other job's end": job_is(JobStatus.COMPLETED, 2),
}
FACTS: dict[str, Fact] = PHASES | JOBS | {"finish": lambda one, now: finish(one, now, "not wanted")}
STARTS = [
    instance(),
    instance(status=Status.CREATING),
    instance(status=Status.RUNNING, runner_status=RunnerStatus.INSTALLING),
    idle(),
    idle(runner_status=RunnerStatus.ACTIVE, job_id="job-1"),
    idle(runner_status=RunnerStatus.FAILED),
]
several = st.lists(st.sampled_from(sorted(FACTS)), max_size=12)


def _run(one: Instance, names: list[str]) -> Instance:
    for number, name in enumerate(names):
        one = FACTS[name](one, NOW + timedelta(seconds=number + 1))
    return one


@calm
@given(st.sampled_from(STARTS), several, st.sampled_from(sorted(FACTS)))
def test_a_fact_told_twice_changes_nothing_more(start: Instance, names: list[str], last: str) -> None:
    once = _run(start, [*names, last])
    assert FACTS[last](once, NOW + timedelta(hours=1)) == once


@calm
@given(st.sampled_from(STARTS), several, several)
def test_deleted_is_for_ever(start: Instance, before: list[str], after: list[str]) -> None:
    deleted = _run(start, [*before, "phase deleted"])
    assert (deleted.status, deleted.runner_status) == (Status.DELETED, RunnerStatus.TERMINATED)
    later = _run(deleted, after)
    assert (later.status, later.runner_status) == (Status.DELETED, RunnerStatus.TERMINATED)
    assert (later.generation, later.fault, later.changed_at) == (
        deleted.generation,
        deleted.fault,
        deleted.changed_at,
    )


@calm
@given(st.sampled_from(STARTS), several)
def test_what_is_on_its_way_out_never_comes_back(start: Instance, names: list[str]) -> None:
    gone = False
    one = start
    for number, name in enumerate(names):
        one = FACTS[name](one, NOW + timedelta(seconds=number + 1))
        gone = gone or one.status in GOING
        assert not gone or one.status in GOING | {Status.DELETED}
        assert one.generation <= start.generation + 1
        assert one.job_id in {start.job_id, "job-1", "job-2"}


@calm
@given(st.permutations(["phase accepted", "phase disk", "phase started", "phase stopped", "phase deleted"]))
def test_phases_in_any_order_end_the_instance(names: list[str]) -> None:
    assert _run(instance(), names).status is Status.DELETED


@calm
@given(
    st.permutations(["phase accepted", "phase disk", "phase started"]),
    st.permutations(["job queued", "job in_progress", "job completed"]),
    st.randoms(use_true_random=False),
)
def test_whatever_comes_first_a_completed_job_sends_its_machine_away(
    phases: list[str], jobs: list[str], chance: Any
) -> None:
    mixed = [*phases, *jobs]
    chance.shuffle(mixed)
    ended = _run(instance(), mixed)
    assert (ended.status, ended.runner_status, ended.job_id) == (
        Status.PENDING_DELETE,
        RunnerStatus.TERMINATED,
        "job-1",
    )


@calm
@given(st.permutations(["phase accepted", "phase disk", "phase started"]))
def test_a_machine_that_started_is_running_whatever_was_told_first(names: list[str]) -> None:
    assert _run(instance(), names).status is Status.RUNNING


@pytest.mark.parametrize("which", [Phase.STOPPED, Phase.FAILED])
@pytest.mark.parametrize(
    ("runner_status", "failed"),
    [
        (RunnerStatus.PENDING, True),
        (RunnerStatus.INSTALLING, True),
        (RunnerStatus.IDLE, False),
        (RunnerStatus.ACTIVE, False),
    ],
)
def test_a_machine_that_ends_before_its_runner_is_up_is_a_failure(
    which: Phase, runner_status: RunnerStatus, failed: bool
) -> None:
    one = instance(status=Status.CREATING, runner_status=runner_status)
    changed = on_phase(one, which, NOW, "out of disk")
    assert changed.failed is failed
    assert (changed.instance.status, changed.instance.fault) == (Status.PENDING_DELETE, "out of disk")
    assert changed.instance.generation == 2
    assert not on_phase(changed.instance, which, NOW, "out of disk").failed


def test_a_job_is_bound_to_the_machine_that_took_it_and_to_no_other() -> None:
    running = on_job(idle(), job(1, status=JobStatus.IN_PROGRESS), NOW)
    assert (running.runner_status, running.job_id) == (RunnerStatus.ACTIVE, "job-1")
    assert on_job(running, job(2, status=JobStatus.COMPLETED), NOW) == running


def test_a_delete_that_failed_says_why_until_it_is_done() -> None:
    going = finish(idle(), NOW)
    assert on_phase(going, Phase.DELETE_FAILED, NOW, "volume is busy").instance.fault == "volume is busy"
    assert on_phase(going, Phase.DELETE_FAILED, NOW, "volume is busy").instance.status is Status.PENDING_DELETE


def test_every_phase_has_its_step() -> None:
    assert set(PHASE_STEP) == set(Phase)
