"""Waiting before the next try: doubling, bounded, jittered; and the loop that uses it."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from agent import link
from agent.backoff import Backoff
from agent.session import SessionLost

RNG = random.Random(1)  # noqa: S311 - the same delays in each run


@given(attempt=st.integers(0, 10_000), rng=st.randoms())
def test_a_delay_is_between_half_and_the_whole_of_the_doubled_first(attempt: int, rng: random.Random) -> None:
    whole = min(10.0, 0.2 * 2.0 ** min(attempt, 20))
    assert whole / 2 <= link.RECONNECT.delay(attempt, rng) <= whole


def test_jitter_spreads() -> None:
    assert len({link.RECONNECT.delay(5, RNG) for _ in range(10)}) == 10


async def test_the_link_goes_on_through_every_kind_of_failure() -> None:
    stop, runs = asyncio.Event(), 0

    class Failing:
        async def run(self, stop: asyncio.Event) -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise SessionLost("gone")
            if runs == 2:
                raise ZeroDivisionError
            stop.set()

    backoff = Backoff(first_seconds=0.001, most_seconds=0.001)
    await link.keep(Failing, stop, rng=RNG, monotonic=lambda: 0.0, backoff=backoff)
    assert runs == 3


async def test_a_session_that_lasted_starts_the_delays_anew() -> None:
    stop, time, asked = asyncio.Event(), 0.0, []

    class Spy(Backoff, frozen=True):
        def delay(self, attempt: int, rng: random.Random) -> float:
            asked.append((attempt, rng is not None))
            return 0.0

    class Lost:
        async def run(self, stop: asyncio.Event) -> None:
            nonlocal time
            time += 60.0 if len(asked) == 2 else 1.0
            if len(asked) == 4:
                stop.set()
            raise SessionLost("gone")

    await link.keep(Lost, stop, rng=RNG, monotonic=lambda: time, backoff=Spy(first_seconds=1, most_seconds=1))
    assert [attempt for attempt, _ in asked] == [0, 1, 0, 1, 2]
