"""What a command means for what is held: every pair is answered, and no order of commands revives what was deleted."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.decisions import Answer, Held, Holding, on_create, on_delete
from agent.endings import Ending
from providers.contract import Phase

NOW = datetime(2026, 1, 1, tzinfo=UTC)

generations = st.integers(min_value=0, max_value=4)
holdings = st.none() | st.builds(Held, holding=st.sampled_from(Holding), generation=generations)
endings = st.none() | st.builds(
    Ending,
    instance_id=st.just("i"),
    generation=generations,
    phase=st.sampled_from([Phase.DELETED, Phase.FAILED]),
    at=st.just(NOW),
)


def ended(generation: int, phase: Phase = Phase.DELETED) -> Ending:
    return Ending("i", generation, phase, NOW)


@given(generation=generations, held=holdings, ending=endings)
def test_no_create_begins_below_or_at_an_ending(generation: int, held: Held | None, ending: Ending | None) -> None:
    answer = on_create(generation, held=held, ended=ending)
    if ending is not None and generation <= ending.generation:
        assert answer in {Answer.IGNORE, Answer.REPEAT_FAILURE}


@given(generation=generations, held=holdings, ending=endings)
def test_a_generation_below_the_held_one_is_ignored(generation: int, held: Held | None, ending: Ending | None) -> None:
    if held is not None and generation < held.generation:
        assert on_create(generation, held=held, ended=ending) is Answer.IGNORE
        assert on_delete(generation, held=held, ended=ending) is Answer.IGNORE


@pytest.mark.parametrize(
    ("holding", "answer"),
    [
        (Holding.MAKING, Answer.REPEAT_PHASES),
        (Holding.MADE, Answer.REPEAT_PHASES),
        (Holding.INTERRUPTED, Answer.BEGIN),
        (Holding.REMOVING, Answer.IGNORE),
    ],
)
def test_a_repeated_create(holding: Holding, answer: Answer) -> None:
    assert on_create(1, held=Held(holding, 1), ended=None) is answer


def test_a_newer_create_is_made_after_the_removal() -> None:
    assert on_create(3, held=Held(Holding.REMOVING, 2), ended=ended(2)) is Answer.BEGIN


def test_a_failed_create_is_repeated_in_words_only() -> None:
    assert on_create(1, held=None, ended=ended(1, Phase.FAILED)) is Answer.REPEAT_FAILURE
    assert on_create(2, held=None, ended=ended(1, Phase.FAILED)) is Answer.BEGIN


def test_a_delete_may_bear_the_generation_of_the_create() -> None:
    assert on_delete(1, held=Held(Holding.MADE, 1), ended=None) is Answer.BEGIN


def test_a_repeated_delete_is_done_or_hurried() -> None:
    assert on_delete(2, held=None, ended=ended(2)) is Answer.BEGIN
    assert on_delete(2, held=Held(Holding.REMOVING, 2), ended=ended(2)) is Answer.NUDGE
    assert on_delete(1, held=None, ended=ended(2)) is Answer.IGNORE
