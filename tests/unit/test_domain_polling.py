"""What polls decide: their pace, what is asked for first, what is news, and when a job is believed to be gone."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain import polling
from coordinator.domain.job import Job, JobEvent, JobStatus, fold
from coordinator.domain.labels import labels
from tests.samples.domain import NOW, calm, event, job

EVERY = timedelta(minutes=5)
LINUX = labels(["self-hosted", "linux"])


@pytest.mark.parametrize(("left", "times"), [(1.0, 1), (0.5, 1), (0.49, 3), (0.1, 3), (0.09, 12), (0.0, 12)])
def test_polls_are_rarer_the_less_the_rate_limit_has_left(left: float, times: int) -> None:
    assert polling.pause(EVERY, left) == EVERY * times


def test_a_forge_that_does_not_answer_is_asked_less_often_and_never_given_up() -> None:
    rests = [polling.rest(EVERY, failures) for failures in (1, 2, 3, 4, 1000)]
    assert rests == [EVERY, EVERY * 2, EVERY * 3, EVERY * 3, EVERY * 3]
    assert polling.rest(timedelta(hours=2), 1000) == timedelta(hours=2)


@calm
@given(st.sets(st.integers(0, 50), max_size=30), st.integers(1, 5))
def test_all_are_asked_for_in_their_turn(runs: set[int], most: int) -> None:
    asked: dict[int, object] = {}
    for turn in range(-(-len(runs) // most)):
        for run in polling.first_to_ask(runs, asked, most):  # type: ignore[arg-type]
            asked[run] = NOW + timedelta(seconds=turn)
    assert asked.keys() == runs


def known(*jobs: Job) -> dict[object, JobStatus]:
    return {one.key: one.status for one in jobs}


def news(told: JobEvent, *jobs: Job) -> bool:
    return polling.news([told], known(*jobs), [LINUX]) == [told]  # type: ignore[arg-type]


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_new_job_is_news_when_a_pool_could_serve_it_and_it_has_not_ended(status: JobStatus) -> None:
    assert news(event(status)) is (status is not JobStatus.COMPLETED)
    assert not news(event(status, labels=labels(["windows"])))
    assert polling.news([event(status)], {}, []) == []


@calm
@given(st.sampled_from(JobStatus), st.sampled_from(JobStatus))
def test_of_a_job_that_is_known_only_what_goes_further_is_news(told: JobStatus, ours: JobStatus) -> None:
    before = job(1, status=ours)
    said = event(told)
    changed = fold(before, said, "new")
    assert news(said, before) is (changed is not None and changed.status is not ours)


def test_a_job_is_doubtful_that_is_not_listed_and_has_not_changed_for_a_while() -> None:
    old, fresh, listed = (job(n, changed_at=NOW - polling.DOUBT) for n in (1, 2, 3))
    fresh = job(2, changed_at=NOW)
    assert polling.doubtful([old, fresh, listed], {listed.key}, NOW) == [old]


def test_a_forge_that_does_not_have_a_job_is_believed_the_third_time_and_after_a_while() -> None:
    first = polling.missed(None, NOW)
    assert not polling.is_gone(first, NOW + timedelta(days=1))
    thrice = polling.missed(polling.missed(first, NOW), NOW)
    assert not polling.is_gone(thrice, NOW + timedelta(minutes=1))
    assert polling.is_gone(thrice, NOW + timedelta(minutes=10))
