"""When a provider is left alone: for longer each time, tried by one, and forgiven at once."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.circuit import CLOSED, PATIENCE, Circuit, State
from coordinator.domain.cooldown import LONGEST
from coordinator.domain.instance import Status
from coordinator.domain.planner import plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment
from tests.samples.domain import NOW, instance, job, pool, world


def _broken(failures: int = PATIENCE) -> Circuit:
    one = CLOSED
    for _ in range(PATIENCE):
        one = one.failed(NOW, 0.5, "no route to the cloud")
    for _ in range(failures - PATIENCE):
        assert one.open_until is not None
        one = one.failed(one.open_until, 0.5, "no route to the cloud")
    return one


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 0.999)), max_size=40))
def test_it_is_left_alone_only_after_patience_and_never_for_longer_than_the_longest_rest(
    failures: list[tuple[int, float]],
) -> None:
    one, now = CLOSED, NOW
    for seconds, chance in failures:
        now += timedelta(seconds=seconds)
        before = one
        one = one.failed(now, chance, "fault")
        assert (one.state(now) is State.CLOSED) == (one.failures < PATIENCE)
        if before.state(now) is State.OPEN:
            assert one == before  # what fails meanwhile was begun before
        elif one.open_until is not None:
            assert now < one.open_until <= now + LONGEST


def test_a_failed_trial_makes_the_rest_longer() -> None:
    first, second = _broken(), _broken(PATIENCE + 1)
    assert first.open_until is not None
    assert second.open_until is not None
    assert first.state(first.open_until) is State.TRIED
    assert second.open_until - first.open_until == 2 * (first.open_until - NOW)


def test_a_job_waits_for_the_provider_and_is_told_why_and_until_when() -> None:
    broken = _broken()
    board = Board.of(world(jobs=(job(1, queued_at=NOW),), pools=(pool(provider="cloud"),), clouds={"cloud": 5}))
    decided = plan_on(board, Moment(NOW, circuits={"cloud": broken}))
    assert decided.creates == ()
    assert decided.wake_at == broken.open_until
    told = why_waiting(board, decided, "job-1")
    assert "provider cloud has failed 5 times in a row and is left alone until" in told
    assert told.endswith("no route to the cloud")


def test_other_pools_are_used_meanwhile() -> None:
    pools = (pool("first", provider="cloud", priority=9), pool("second", provider="other"))
    board = Board.of(world(jobs=(job(1, queued_at=NOW),), pools=pools, clouds={"cloud": 5, "other": 5}))
    (create,) = plan_on(board, Moment(NOW, circuits={"cloud": _broken()})).creates
    assert create.pool.name == "second"


def test_it_is_tried_with_one_machine_however_many_jobs_wait() -> None:
    broken = _broken()
    assert broken.open_until is not None
    jobs = (job(1), job(2), job(3))
    moment = Moment(broken.open_until, circuits={"cloud": broken})
    board = Board.of(world(jobs=jobs, pools=(pool(provider="cloud"),), clouds={"cloud": 5}))
    decided = plan_on(board, moment)
    assert len(decided.creates) == 1
    assert "is tried with one machine" in decided.waits[0].reason
    making = instance(1, host="", provider="cloud", status=Status.CREATING)
    board = Board.of(world(jobs=jobs, instances=(making,), pools=(pool(provider="cloud"),), clouds={"cloud": 5}))
    assert plan_on(board, moment).creates == ()
