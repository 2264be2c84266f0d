"""What calls of a provider teach its circuit, and who may pass."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from coordinator.domain.circuit import PATIENCE, State
from coordinator.engine.circuits import Circuits
from providers.contract import ProviderError
from providers.exec import InstanceNotFound, ProviderTimeout, RequestInvalid
from tests.samples.store import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuits(clock: Clock) -> Circuits:
    return Circuits(clock, lambda: 0.5)


def call(circuits: Circuits, error: ProviderError | None) -> None:
    with suppress(ProviderError), circuits.watched("cloud"):
        if error is not None:
            raise error


def broken(circuits: Circuits) -> None:
    for _ in range(PATIENCE):
        call(circuits, ProviderTimeout("late"))


async def test_it_opens_after_failures_in_a_row_and_one_success_forgives_them(circuits: Circuits, clock: Clock) -> None:
    for _ in range(PATIENCE - 1):
        call(circuits, ProviderTimeout("late"))
    call(circuits, None)
    broken(circuits)
    assert circuits.not_closed()["cloud"].state(clock()) is State.OPEN
    call(circuits, None)
    assert circuits.not_closed() == {}


@pytest.mark.parametrize("answer", [InstanceNotFound("gone"), None])
async def test_an_answer_is_an_answer(circuits: Circuits, answer: ProviderError | None) -> None:
    broken(circuits)
    call(circuits, answer)
    assert circuits.not_closed() == {}


async def test_what_was_not_called_teaches_nothing(circuits: Circuits) -> None:
    for _ in range(PATIENCE):
        call(circuits, RequestInvalid("no pool id"))
    assert circuits.not_closed() == {}
    broken(circuits)
    call(circuits, RequestInvalid("no pool id"))
    assert "cloud" in circuits.not_closed()


async def test_after_the_rest_one_passes_and_the_others_wait_for_what_becomes_of_it(
    circuits: Circuits, clock: Clock
) -> None:
    broken(circuits)
    passed: list[int] = []

    async def pass_by(number: int) -> None:
        await circuits.passage("cloud")
        passed.append(number)

    waiting = [asyncio.create_task(pass_by(number)) for number in range(3)]
    await asyncio.sleep(0.02)
    assert passed == []
    clock.move(minutes=6)
    call(circuits, RequestInvalid("no pool id"))  # wakes those whose own time, by the loop's clock, is not over yet
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.02)
    assert len(passed) == 1
    call(circuits, None)
    await asyncio.gather(*waiting)
    assert sorted(passed) == [0, 1, 2]


async def test_one_that_is_cancelled_while_it_tries_lets_another_try(circuits: Circuits, clock: Clock) -> None:
    broken(circuits)
    clock.move(minutes=6)
    await circuits.passage("cloud")
    with pytest.raises(asyncio.CancelledError), circuits.watched("cloud"):
        raise asyncio.CancelledError
    await asyncio.wait_for(circuits.passage("cloud"), 5)


async def test_who_waits_passes_when_the_rest_is_over_though_nobody_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.domain.circuit.cooldown", lambda *_: timedelta(seconds=0.05))
    circuits = Circuits(lambda: datetime.now(UTC), lambda: 0.5)
    broken(circuits)
    assert circuits.not_closed()["cloud"].open_until is not None
    async with asyncio.timeout(10):
        await circuits.passage("cloud")


async def test_who_waits_for_a_provider_hears_when_another_call_finds_it_well(circuits: Circuits) -> None:
    heard: list[None] = []
    circuits.on_well = lambda: heard.append(None)
    call(circuits, None)
    assert not heard
    broken(circuits)
    call(circuits, None)
    assert len(heard) == 1
