"""Folding a job's events: order, repetition and loss of deliveries make no difference to where it ends."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.job import RANK, Job, JobEvent, JobStatus, fold
from coordinator.domain.labels import labels, serve
from tests.samples.domain import NOW, calm, event, job

# What a forge says of one job; it may leave out what it does not know.
WHOLE = [
    event(JobStatus.WAITING),
    event(JobStatus.QUEUED),
    event(JobStatus.IN_PROGRESS, runner_name="hostler-1"),
    event(JobStatus.COMPLETED, runner_name="hostler-1", conclusion="success"),
    event(JobStatus.IN_PROGRESS),
    event(JobStatus.COMPLETED, conclusion="success"),
    event(JobStatus.COMPLETED),
]


def _fold(events: list[JobEvent]) -> Job:
    found: Job | None = None
    for number, one in enumerate(events):
        at = NOW + timedelta(seconds=number)
        found = fold(found, msgspec.structs.replace(one, received_at=at), "job-1") or found
    assert found is not None
    return found


def _said(found: Job) -> dict[str, Any]:
    """All but the times of arrival, which are of the order by nature."""
    return {
        name: value for name, value in msgspec.structs.asdict(found).items() if name not in ("queued_at", "changed_at")
    }


@calm
@given(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_any_order_and_repetition_ends_in_the_same_state(events: list[JobEvent], chance: Any) -> None:
    other = events + chance.sample(events, len(events) // 2)
    chance.shuffle(other)
    assert _said(_fold(events)) == _said(_fold(other))


@calm
@given(st.lists(st.sampled_from(WHOLE), min_size=2, max_size=10))
def test_a_job_never_goes_back(events: list[JobEvent]) -> None:
    ranks = [RANK[_fold(events[:end]).status] for end in range(1, len(events) + 1)]
    assert ranks == sorted(ranks)
    assert ranks[-1] == max(RANK[one.status] for one in events)


@pytest.mark.parametrize("one", WHOLE, ids=lambda one: f"{one.status}-{one.runner_name}")
def test_an_event_that_tells_nothing_new_changes_nothing(one: JobEvent) -> None:
    first = fold(None, one, "job-1")
    assert first is not None
    assert fold(first, one, "job-2") is None


def test_another_attempt_is_another_matter_but_the_id_stays_for_one() -> None:
    first = fold(None, event(JobStatus.QUEUED), "job-1")
    second = fold(first, event(JobStatus.IN_PROGRESS, runner_name="hostler-1"), "job-2")
    assert second is not None
    assert second.id == "job-1"


def test_a_job_that_the_forge_held_back_has_waited_since_it_was_let_through() -> None:
    held = fold(None, event(JobStatus.WAITING, received_at=NOW - timedelta(days=2)), "job-1")
    queued = fold(held, event(JobStatus.QUEUED), "job-2")
    assert queued is not None
    assert queued.queued_at == NOW
    assert fold(queued, event(JobStatus.WAITING, received_at=NOW + timedelta(seconds=1)), "job-3") is None
    begun = fold(queued, event(JobStatus.IN_PROGRESS, received_at=NOW + timedelta(seconds=9)), "job-4")
    assert begun is not None
    assert begun.queued_at == NOW


def test_a_late_begin_still_tells_whose_runner_it_was() -> None:
    ended = fold(None, event(JobStatus.COMPLETED, conclusion="failure"), "job-1")
    told = fold(ended, event(JobStatus.IN_PROGRESS, runner_name="hostler-1"), "job-2")
    assert told is not None
    assert (told.status, told.runner_name, told.conclusion) == (JobStatus.COMPLETED, "hostler-1", "failure")


def test_labels_are_compared_without_regard_to_case_and_a_superset_serves() -> None:
    runner = labels(["Self-Hosted", "LINUX", "x64"])
    assert serve(runner, job(1, "linux", "SELF-hosted").labels)
    assert serve(runner, labels(["linux", "x64", "self-hosted"]))
    assert not serve(runner, labels(["linux", "gpu"]))
