"""The record of endings: outlives a process and a torn write, forgets after a day, does not grow for ever."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.endings import Ending, Endings, EndingsUnreadable
from providers.contract import Phase


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def opened(path: Path, clock: Clock) -> Endings:
    endings = Endings(path, now=clock)
    endings.load()
    return endings


async def kept(endings: Endings, clock: Clock, instance_id: str, generation: int = 1) -> Ending:
    ending = Ending(instance_id, generation, Phase.DELETED, clock())
    endings.remember(ending)
    await endings.persist(ending)
    return ending


async def test_an_ending_outlives_the_process(tmp_path: Path) -> None:
    clock = Clock()
    ending = await kept(opened(tmp_path / "e", clock), clock, "one", 3)
    assert opened(tmp_path / "e", clock).get("one") == ending
    assert opened(tmp_path / "e", clock).get("two") is None


async def test_the_newest_ending_of_an_instance_counts(tmp_path: Path) -> None:
    clock = Clock()
    endings = opened(tmp_path / "e", clock)
    await kept(endings, clock, "one", 1)
    newest = await kept(endings, clock, "one", 2)
    assert opened(tmp_path / "e", clock).get("one") == newest


async def test_it_is_forgotten_after_a_day(tmp_path: Path) -> None:
    clock = Clock()
    endings = opened(tmp_path / "e", clock)
    await kept(endings, clock, "one")
    clock.time += timedelta(hours=23, minutes=59)
    assert endings.get("one") is not None
    clock.time += timedelta(minutes=1)
    assert endings.get("one") is None
    opened(tmp_path / "e", clock)
    assert (tmp_path / "e").read_bytes() == b""


async def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    clock = Clock()
    await kept(opened(tmp_path / "e", clock), clock, "one")
    with (tmp_path / "e").open("ab") as file:
        file.write(b'{"instance_id":"tw')
    endings = opened(tmp_path / "e", clock)
    await kept(endings, clock, "three")
    again = opened(tmp_path / "e", clock)
    assert again.get("one") is not None
    assert again.get("three") is not None


async def test_neither_memory_nor_file_grows_with_the_instances_that_there_ever_were(tmp_path: Path) -> None:
    clock = Clock()
    endings = opened(tmp_path / "e", clock)
    a_day = 24 * 4
    for number in range(3000):
        clock.time += timedelta(minutes=15)
        await kept(endings, clock, f"instance-{number}")
        assert len(endings._ended) <= a_day
    assert len((tmp_path / "e").read_bytes().splitlines()) <= 1000 + a_day
    assert endings.get("instance-2999") is not None
    assert opened(tmp_path / "e", clock).get("instance-2999") is not None


async def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    endings = opened(tmp_path / "e", clock)
    for number in range(1100):
        await kept(endings, clock, "one", number)
    assert len((tmp_path / "e").read_bytes().splitlines()) < 1010
    found = opened(tmp_path / "e", clock).get("one")
    assert found is not None
    assert found.generation == 1099


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    with pytest.raises(EndingsUnreadable, match=str(tmp_path / "e")):
        opened(tmp_path / "e", Clock())
