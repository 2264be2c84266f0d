"""When an agent renews its certificate, and what it does when that fails."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agent import identity
from agent.backoff import Backoff
from agent.dial import Way
from agent.identity import Identity
from agent.renewal import Renewal, RenewalFailed
from hostler.errors import ConfigError

START = datetime(2030, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def issued(at: datetime, key: str = "first") -> Identity:
    return identity.made(
        host="build-1",
        address="build.example:9995",
        ca=b"",
        certificate=b"",
        key=key,
        life_seconds=int(WEEK.total_seconds()),
        now=at,
    )


class Time:
    """Passes only by what sleeps; ends the test at its end."""

    def __init__(self, days: float) -> None:
        self.now = START
        self._end = START + timedelta(days=days)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        if self.now >= self._end:
            raise asyncio.CancelledError


class Played(Renewal):
    """Its coordinator answers each renewal with what comes next in `answers`."""

    def __init__(self, time: Time, held: Identity | None, answers: list[bool]) -> None:
        self.held = held
        self.asked: list[datetime] = []
        self._time = time
        self._answers = answers
        super().__init__(
            Path("/nowhere"),
            self._find_played,
            now=lambda: time.now,
            rng=random.Random(7),  # noqa: S311 (jitter)
            retry=Backoff(first_seconds=60.0, most_seconds=3600.0),
            sleep=time.sleep,
        )

    def _find_played(self) -> Way:
        if self.held is not None and self.held.host == "damaged":
            raise ConfigError("damaged")
        return Way("build.example:9995", self.held)

    async def renew(self, way: Way, held: Identity) -> None:
        self.asked.append(self._time.now)
        if self._answers.pop(0):
            self.held = issued(self._time.now, key=f"key-{len(self.asked)}")
            self.renewed.set()
        else:
            raise RenewalFailed("no answer")


async def run(renewal: Renewal) -> None:
    with pytest.raises(asyncio.CancelledError):
        await renewal.run()


async def test_it_renews_at_two_thirds_again_and_again() -> None:
    time = Time(days=20)
    renewal = Played(time, issued(START), [True] * 10)
    await run(renewal)
    gaps = [later - earlier for earlier, later in zip([START, *renewal.asked], renewal.asked, strict=False)]
    assert len(gaps) == 4
    assert all(WEEK * 0.61 < gap < WEEK * 0.668 for gap in gaps)
    assert renewal.renewed.is_set()


async def test_a_renewal_that_fails_is_tried_again_until_it_succeeds() -> None:
    time = Time(days=6)
    renewal = Played(time, issued(START), [False] * 5 + [True])
    await run(renewal)
    assert len(renewal.asked) == 6
    pauses = [
        (later - earlier).total_seconds() for earlier, later in zip(renewal.asked, renewal.asked[1:], strict=False)
    ]
    assert pauses == sorted(pauses)
    assert 30 <= pauses[0] <= 60
    assert renewal.asked[-1] - renewal.asked[0] < timedelta(hours=1)


async def test_a_host_that_is_not_enrolled_or_whose_file_is_damaged_waits() -> None:
    for held in (None, msgspec.structs.replace(issued(START), host="damaged")):
        time = Time(days=0.01)
        renewal = Played(time, held, [])
        await run(renewal)
        assert renewal.asked == []
        assert set(time.slept) == {60.0}


async def test_a_host_that_is_enrolled_meanwhile_is_taken_up() -> None:
    time = Time(days=10)
    renewal = Played(time, None, [True] * 3)

    async def enrol_on_the_second_day(seconds: float) -> None:
        await Time.sleep(time, seconds)
        if renewal.held is None and time.now > START + timedelta(days=2):
            renewal.held = issued(time.now)

    renewal._sleep = enrol_on_the_second_day
    await run(renewal)
    assert START + timedelta(days=6) < renewal.asked[0] < START + timedelta(days=7)
