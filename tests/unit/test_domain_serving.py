"""For which job a machine is made, where jobs become known out of their order."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.job import Job
from coordinator.domain.planner import plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.resources import Resources
from coordinator.domain.world import Moment, Policy
from tests.samples.domain import NOW, calm, carried_out, host, idle, instance, job, pool, world

WIDE = Resources(1000, 1_000_000, 1_000_000)


def known_one_after_another(batches: Sequence[Sequence[Job]], most: int | None = None) -> list[str]:
    """The jobs that the machines are made for, in order."""
    wide = pool(max_runners=1000)
    board = Board.of(world(pools=(wide,), hosts=(host(capacity=WIDE),)))
    made: list[str] = []
    for batch in batches:
        for one in batch:
            board.put_job(one)
        decided = plan_on(board, Moment(NOW), most)
        made += [create.for_job for create in decided.creates]
        carried_out(board, decided)
    return made


@calm
@given(st.permutations(range(12)), st.integers(1, 12), st.sampled_from([None, 1, 2]))
def test_each_job_has_a_machine_of_its_own_however_late_it_becomes_known(
    order: list[int], size: int, most: int | None
) -> None:
    batches = [[job(n) for n in batch] for batch in (order[at : at + size] for at in range(0, len(order), size))]
    made = known_one_after_another([*batches, *([[]] * len(order))], most)
    assert sorted(made) == sorted(f"job-{n}" for n in order)


def test_a_machine_is_for_the_job_that_came_late_and_not_for_the_one_that_has_one() -> None:
    assert known_one_after_another([[job(2), job(3)], [job(1)]]) == ["job-2", "job-3", "job-1"]


def test_jobs_that_idle_runners_may_take_are_passed_over() -> None:
    runners = (idle(1), instance(2, for_job="job-3"))
    board = Board.of(world((job(1), job(2), job(3)), runners, pools=(pool(max_runners=9),)))
    assert [create.for_job for create in plan_on(board, Moment(NOW)).creates] == ["job-1"]


def test_a_job_whose_runner_has_stopped_serving_gets_another() -> None:
    board = Board.of(world((job(1), job(2)), (instance(1, for_job="job-1"), instance(2, for_job="job-2"))))
    board.drop_instance("instance-1")
    assert [create.for_job for create in plan_on(board, Moment(NOW)).creates] == ["job-1"]


def test_an_idle_runner_that_is_not_trusted_any_more_does_not_keep_its_job_from_another() -> None:
    late = NOW + Policy().idle_trust + Policy().idle_trust
    board = Board.of(world((job(1),), (idle(1, for_job="job-1"),)))
    assert [create.for_job for create in plan_on(board, Moment(late)).creates] == ["job-1"]
