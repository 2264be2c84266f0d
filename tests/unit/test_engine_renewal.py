"""Everything is read anew beside the planning: what is told meanwhile is planned at once, and not lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from coordinator.domain.planning.board import Board
from coordinator.domain.world import Plan, Policy, World
from coordinator.engine.budgets import Budgets
from coordinator.engine.lead import Lead
from coordinator.store.changed import Changes
from coordinator.store.feed import Feed
from tests.samples.domain import NOW, carried_out, instance, job, pool, world


class Database:
    """The store as far as a lead asks it: `found` is what a reading finds that ends when `gate` is open."""

    def __init__(self) -> None:
        self.planning = self.catalog = self
        self.feed = Feed()
        self.gate = asyncio.Event()
        self.found: World | Exception = world()
        self.readings = 0
        self.told: list[tuple[Board, Changes]] = []
        self.planned: list[Plan] = []

    async def credentials(self) -> list[Any]:
        return []

    async def world(self, _clouds: object, _policy: object) -> World:
        self.readings += 1
        found = self.found
        await self.gate.wait()
        if isinstance(found, Exception):
            raise found
        return found

    async def tell(self, board: Board, changes: Changes) -> list[Any]:
        self.told.append((board, changes))
        for one in changes.arrived.values():
            board.put_job(one)
        return []

    async def commit(self, plan: Plan) -> list[Any]:
        self.planned.append(plan)
        return []


class Silent:
    """Hands, registrar, clouds and circuits that have nothing to do."""

    def __init__(self) -> None:
        self.circuits = self

    def not_closed(self) -> dict[str, Any]:
        return {}

    def capacities(self) -> dict[str, int]:
        return {}

    def keep_only(self, _alive: object) -> None: ...


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
async def lead(database: Database) -> AsyncIterator[Lead]:
    """One whose first reading is done."""
    silent = cast("Any", Silent())
    one = Lead(cast("Any", database), silent, silent, silent, Budgets(), Policy(), lambda: NOW, lambda _: None)
    database.gate.set()
    await one.plan(Changes(everything=True))
    database.gate.clear()
    database.told.clear()
    database.planned.clear()
    yield one
    await one.close()


async def until_read(database: Database) -> None:
    database.feed.work.clear()
    database.gate.set()
    async with asyncio.timeout(5):
        await database.feed.work.wait()


async def test_a_job_that_comes_while_everything_is_read_is_planned_at_once(lead: Lead, database: Database) -> None:
    old = lead.board
    await lead.plan(Changes(everything=True))
    await lead.plan(Changes(arrived={"job-1": job(1)}))
    assert lead.board is old
    assert [create.for_job for plan in database.planned for create in plan.creates] == ["job-1"]


async def test_what_came_meanwhile_is_told_to_the_new_board(lead: Lead, database: Database) -> None:
    old = lead.board
    await lead.plan(Changes(everything=True))
    await lead.plan(Changes(arrived={"job-1": job(1)}, instances={"instance-7"}))
    await until_read(database)
    await lead.plan(Changes(hosts={"host-9"}))
    assert lead.board is not old
    board, told = database.told[-1]
    assert board is lead.board
    assert told.instances == {"instance-7"}
    assert told.hosts == {"host-9"}
    assert set(told.arrived) == {"job-1"}
    assert database.readings == 2


async def test_machines_that_were_planned_meanwhile_are_looked_up_for_the_new_board(
    lead: Lead, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = instance(5, pool_id=pool().id)

    async def commit(_plan: Plan) -> list[Any]:
        return [machine]

    await lead.plan(Changes(everything=True))
    monkeypatch.setattr(database, "commit", commit)
    monkeypatch.setattr(lead, "_act_on", lambda _: None)
    await lead.plan(Changes())
    await until_read(database)
    await lead.plan(Changes())
    assert machine.id in database.told[-1][1].instances


async def test_a_new_call_to_read_everything_begins_anew(lead: Lead, database: Database) -> None:
    await lead.plan(Changes(everything=True))
    await asyncio.sleep(0)
    database.found = world((job(1),))
    await lead.plan(Changes(everything=True))
    await until_read(database)
    await lead.plan(Changes())
    assert lead.board.waits("job-1")


async def test_after_an_error_nothing_is_planned_before_everything_is_read(lead: Lead, database: Database) -> None:
    database.found = OSError("no database")
    await lead.plan(Changes(everything=True))
    await until_read(database)
    with pytest.raises(OSError, match="no database"):
        await lead.plan(Changes())
    database.found = world((job(1),))
    database.gate.clear()
    planning = asyncio.ensure_future(lead.plan(Changes(everything=True)))
    await asyncio.sleep(0.01)
    assert not planning.done()
    database.gate.set()
    await planning
    assert lead.board.waits("job-1")
    assert carried_out(lead.board, database.planned[-1]).in_pool[pool().id] == 1
