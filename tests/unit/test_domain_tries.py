"""Tries of jobs: counted, at an end, and forgiven."""

from datetime import timedelta

from coordinator.domain import tries
from tests.samples.domain import NOW, job


def test_after_the_last_try_a_job_rests_and_forgiven_it_is_as_before() -> None:
    new = tried = job()
    for _ in range(tries.MOST):
        assert tried.retry_at is None
        tried = tries.failed(tried, NOW, "no boot device")
    assert tried.retry_at == NOW + tries.REST
    assert tries.forgiven(tried) == new
    assert tries.forgiven(new) == new


def test_a_job_that_waits_for_the_word_of_the_forge_goes_on_waiting_for_it() -> None:
    waits = tries.may_have_run(tries.failed(job(), NOW, "no boot device"), NOW)
    assert tries.forgiven(waits).retry_at == NOW + tries.WORD_OF_FORGE
    assert tries.forgiven(waits).tries == 0
    assert NOW + timedelta(minutes=1) > NOW + tries.WORD_OF_FORGE
