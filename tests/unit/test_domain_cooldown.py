"""Rests after failures: they grow, they are bounded, and chance spreads them."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.cooldown import FIRST, LONGEST, cooldown
from tests.samples.domain import calm

failures = st.integers(1, 10_000)
chance = st.floats(0, 1, exclude_max=True)


@calm
@given(failures, chance)
def test_a_rest_is_bounded(count: int, luck: float) -> None:
    assert FIRST / 2 <= cooldown(count, luck) <= LONGEST


@calm
@given(failures, chance)
def test_one_more_failure_never_shortens_the_rest(count: int, luck: float) -> None:
    assert cooldown(count, luck) <= cooldown(count + 1, luck)


def test_the_first_rests_double_until_the_longest() -> None:
    seconds = [cooldown(count, 0.999_999_999_999) / timedelta(seconds=1) for count in range(1, 12)]
    assert [round(one) for one in seconds] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert cooldown(3, 0.0) == timedelta(seconds=2)
