"""Many who ask for instances at once share a query, and each gets what is there when it asks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from coordinator.domain.changes import Phase
from coordinator.store.instances import PhaseFact
from tests.samples.store import Sample, open_sample

MANY = 300


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


@contextmanager
def _selects(sample: Sample) -> Iterator[list[str]]:
    """The reading statements of the block."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append(statement)

    engine = sample.store._database._reader.sync_engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


async def test_many_that_ask_for_one_each_share_a_query(sample: Sample) -> None:
    here = [await sample.instance(number) for number in (1, 2, 3)]
    store = sample.store.instances
    with _selects(sample) as selects:
        found = await asyncio.gather(*(store.get(here[number % 3].id) for number in range(MANY)), store.get("nobody"))
    assert found == [here[number % 3] for number in range(MANY)] + [None]
    assert len(selects) <= 2


async def test_hosts_that_ask_for_theirs_share_a_query_and_get_no_others(sample: Sample) -> None:
    here = [await sample.instance(number) for number in (1, 2)]
    gone = await sample.instance(3)
    await sample.store.instances.record_phase(PhaseFact("host-1", gone.id, Phase.FAILED, sample.clock()))
    await sample.store.instances.record_phase(PhaseFact("host-1", gone.id, Phase.DELETED, sample.clock()))
    with _selects(sample) as selects:
        found = await asyncio.gather(*(sample.store.instances.alive(f"host-{n}") for n in range(MANY)))
    assert found[1] == here
    assert not any(found[:1] + found[2:])
    assert len(selects) <= 2


async def test_each_gets_its_own_of_a_shared_query_oldest_first(sample: Sample) -> None:
    one, two, three = [await sample.instance(number) for number in (1, 2, 3)]
    some = sample.store.instances.some
    asked = await asyncio.gather(some([two.id, one.id, two.id]), some(["nobody"]), some([]), some([three.id]))
    assert list(asked) == [[one, two], [], [], [three]]


async def test_what_was_committed_before_one_asks_is_seen_whoever_asks_beside(sample: Sample) -> None:
    machine = await sample.instance()
    for phase in (Phase.ACCEPTED, Phase.DISK, Phase.STARTED):
        earlier = asyncio.create_task(sample.store.instances.get(machine.id))
        await asyncio.sleep(0)
        await sample.store.instances.record_phase(PhaseFact("host-1", machine.id, phase, sample.clock()))
        assert (await sample.now(machine)).status is not machine.status
        await earlier


async def test_many_entities_machines_ask_how_to_speak_to_their_forge_once(sample: Sample) -> None:
    with _selects(sample) as selects:
        found = await asyncio.gather(*(sample.store.catalog.forge_access(sample.entity_id) for _ in range(MANY)))
    assert {access.entity.id for access in found} == {sample.entity_id}
    assert len(selects) <= 2 * 3
