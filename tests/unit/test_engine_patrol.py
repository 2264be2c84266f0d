"""The patrol's pace: where it looks, how often, and how it leaves alone what does not answer. Nothing is asked here."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.domain.changes import Phase
from coordinator.engine.patrol import Patrol
from coordinator.forges.contract import ForgeUnavailable
from coordinator.store.instances import PhaseFact
from tests.samples.store import Sample, open_sample

EVERY = timedelta(minutes=2)


class Inspection:
    """Notes who is looked at."""

    def __init__(self) -> None:
        self.looked: list[str] = []
        self.forgotten: list[str] = []
        self.error: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def entity(self, entity_id: str) -> None:
        self.looked.append("entity")
        await self.may_end.wait()
        if self.error:
            raise self.error

    async def pool(self, pool_id: str) -> None:
        self.looked.append("pool")

    def forget(self, subject: str) -> None:
        self.forgotten.append(subject)


class Beat:
    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.inspection = Inspection()
        self.patrol = self.fresh()

    def fresh(self) -> Patrol:
        """After a restart."""
        store, clock = self.sample.store, self.sample.clock
        return Patrol(store, self.inspection, EVERY, clock, lambda: 0.0)  # type: ignore[arg-type]  # a noting one

    async def round(self, **later: float) -> list[str]:
        """One round, so much later; who was looked at."""
        self.sample.clock.move(**later)
        self.inspection.looked = []
        for subject in await self.patrol._subjects():
            self.patrol._begin(subject)
        for _ in range(5):
            await asyncio.sleep(0)
        return sorted(self.inspection.looked)


@pytest.fixture
async def beat(tmp_path: Path) -> AsyncIterator[Beat]:
    async with open_sample(tmp_path) as sample:
        yield Beat(sample)


async def _delete(beat: Beat, instance_id: str) -> None:
    fact = PhaseFact("host-1", instance_id, Phase.DELETED, beat.sample.clock())
    await beat.sample.store.instances.record_phase(fact)


async def test_nobody_is_asked_where_nothing_is(beat: Beat) -> None:
    assert await beat.round() == []


async def test_who_has_or_had_something_within_the_hour_is_looked_at(beat: Beat) -> None:
    machine = await beat.sample.instance()
    assert await beat.round() == ["entity", "pool"]
    await _delete(beat, machine.id)
    assert await beat.round(minutes=59) == ["entity", "pool"]
    assert await beat.round(minutes=2) == []
    assert len(beat.inspection.forgotten) == 2


async def test_a_restart_remembers_who_had_something(beat: Beat) -> None:
    machine = await beat.sample.instance()
    await _delete(beat, machine.id)
    beat.sample.clock.move(minutes=30)
    beat.patrol = beat.fresh()
    assert await beat.round() == ["entity", "pool"]
    beat.sample.clock.move(hours=2)
    beat.patrol = beat.fresh()
    assert await beat.round() == []


async def test_a_forge_that_fails_is_left_alone_longer_each_time_and_its_pools_are_not(beat: Beat) -> None:
    await beat.sample.instance()
    beat.inspection.error = ForgeUnavailable("down")
    assert await beat.round() == ["entity", "pool"]
    rests = []
    for _ in range(6):
        minutes = 1
        while await beat.round(minutes=1) == ["pool"]:
            minutes += 1
        rests.append(minutes)
    assert rests == [4, 8, 16, 32, 60, 60]
    beat.inspection.error = None
    await beat.round(hours=1)
    assert await beat.round(minutes=2) == ["entity", "pool"]


async def test_what_does_not_answer_is_not_asked_twice_at_once_and_holds_up_nobody(beat: Beat) -> None:
    await beat.sample.instance()
    beat.inspection.may_end.clear()
    assert await beat.round() == ["entity", "pool"]
    assert await beat.round(minutes=2) == ["pool"]
    await beat.patrol.close()
    assert not beat.patrol._looks


async def test_a_round_is_spread_over_its_time(beat: Beat, monkeypatch: pytest.MonkeyPatch) -> None:
    await beat.sample.instance()
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", note)
    with pytest.raises(asyncio.CancelledError):
        await beat.patrol.run()
    assert pauses == [30.0] * 5  # half of a minute for each of two, at the least of chance
    assert len(beat.inspection.looked) == 4


async def test_who_does_not_plan_looks_at_nothing(beat: Beat, monkeypatch: pytest.MonkeyPatch) -> None:
    await beat.sample.instance()
    await beat.sample.store.members.release()
    sleep, pauses = asyncio.sleep, 0

    async def note(_: float) -> None:
        nonlocal pauses
        pauses += 1
        await sleep(0)
        if pauses == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", note)
    with pytest.raises(asyncio.CancelledError):
        await beat.patrol.run()
    assert beat.inspection.looked == []
