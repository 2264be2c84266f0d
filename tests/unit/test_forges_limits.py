"""How long a forge wants to be left alone, from whatever headers it sends."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.forges import limits
from tests.samples.domain import calm

DATE = "Sun, 01 Mar 2026 12:00:00 GMT"
NOON = 1772366400  # the same in seconds since 1970
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "Sun, 01 Mar 2026 12:02:00 GMT"}, 120),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 1),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "99999"}, 3600),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(NOON + 90)}, 90),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": str(NOON + 90)}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "later"}, None),
        ({"x-ratelimit-remaining": "0"}, None),
        ({"retry-after": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(NOON + 90)}, 5),
    ],
)
def test_the_wait_is_read(headers: dict[str, str], seconds: int | None) -> None:
    told = limits.told({"date": DATE} | headers)
    assert told == (None if seconds is None else timedelta(seconds=seconds))


@calm
@given(
    st.dictionaries(
        st.sampled_from(["date", "retry-after", "x-ratelimit-remaining", "x-ratelimit-reset"]),
        st.one_of(st.text(max_size=40), st.integers(-(10**20), 10**20).map(str), st.just(DATE), st.just("0")),
    )
)
def test_no_header_is_taken_for_a_wait_that_cannot_be(headers: dict[str, str]) -> None:
    told = limits.told(headers)
    assert told is None or timedelta(seconds=1) <= told <= HOUR
