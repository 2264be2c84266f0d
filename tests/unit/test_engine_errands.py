"""Work in flight: once at a time, and not again at once after a failure."""

import asyncio
from unittest import mock

import pytest

from coordinator.engine import errands
from coordinator.engine.errands import Errands


class Work:
    def __init__(self, failures: int) -> None:
        self.begun = 0
        self._failures = failures

    async def do(self) -> None:
        self.begun += 1
        if self.begun <= self._failures:
            raise RuntimeError("not yet")


@pytest.fixture(autouse=True)
def short_pauses() -> object:
    with mock.patch.object(errands, "_LONGEST_PAUSE_SECONDS", 0.05):
        yield


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_has_failed_rests_however_often_it_is_asked_for() -> None:
    looked: list[str] = []
    work, flight = Work(1), Errands(looked.append)
    for _ in range(50):
        flight.ensure("retire", "one", work.do())
        await settle()
    assert work.begun == 1
    assert not looked
    await asyncio.sleep(0.1)
    assert looked == ["one"]
    flight.ensure("retire", "one", work.do())
    await settle()
    assert work.begun == 2
    await flight.close()


async def test_others_do_not_rest_with_it() -> None:
    work, flight = Work(1), Errands(lambda _: None)
    flight.ensure("retire", "one", work.do())
    await settle()
    flight.ensure("retire", "two", work.do())
    flight.ensure("delete", "one", work.do())
    await settle()
    assert work.begun == 3
    await flight.close()


async def test_nothing_is_kept_of_those_that_are_gone() -> None:
    looked: list[str] = []
    work, flight = Work(1), Errands(looked.append)
    flight.ensure("retire", "one", work.do())
    await settle()
    flight.keep_only(lambda subject: subject == "one")
    flight.ensure("retire", "one", work.do())
    await settle()
    assert work.begun == 1
    flight.keep_only(lambda subject: subject == "two")
    flight.ensure("retire", "one", work.do())
    await settle()
    assert work.begun == 2
    await asyncio.sleep(0.1)
    assert not looked
    await flight.close()
