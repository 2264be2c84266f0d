"""The benchmark's judge of the policy's order says what is wrong, and nothing of what is right."""

from collections.abc import Iterable

import pytest

from tests.bench.creates import Create
from tests.bench.farm import Made
from tests.bench.fleet import Fleet
from tests.bench.results import none_of
from tests.bench.storm_policy import out_of_order, shifted

ONE, TWO, FIRST = "octo/widgets-000", "octo/widgets-001", "octo/widgets-002"
FLEET = Fleet(repositories=3, weights=(1.0, 2.0, 1.0), priorities=(0, 0, 5))


def planned(repositories: Iterable[str]) -> list[Create]:
    return [Create(0, name, number, f"job-{number}", 0, f"i-{number}") for number, name in enumerate(repositories)]


def test_the_higher_class_first_and_then_by_weight_is_in_order() -> None:
    assert out_of_order(planned([FIRST, FIRST, TWO, ONE, TWO, TWO, ONE, TWO]), FLEET) == 0


@pytest.mark.parametrize(
    ("repositories", "wrong"),
    [
        ([ONE, FIRST], 1),
        ([TWO, ONE, ONE, ONE, TWO, TWO, TWO], 1),
        ([TWO, TWO, TWO, TWO, TWO, ONE], 2),
    ],
)
def test_who_is_not_due_is_counted(repositories: list[str], wrong: int) -> None:
    assert out_of_order(planned(repositories), FLEET) == wrong


def test_a_younger_job_before_an_older_one_of_its_repository_is_counted() -> None:
    first, second = planned([ONE, ONE])
    assert out_of_order([second, first], FLEET) == 1


def test_arrivals_are_compared_with_the_plans() -> None:
    made = [Made(at, f"i-{number}", "host", "pool", "name") for at, number in ((1.0, 1), (2.0, 0), (3.0, 2))]
    assert shifted(planned([ONE, ONE, ONE]), made) == [1, 1, 0]


def test_what_must_not_be_fails_whatever_was_asked_for() -> None:
    assert none_of("lost", 0, "jobs").ok
    missed = none_of("lost", 1, "jobs")
    assert missed.exact
    assert not missed.ok
