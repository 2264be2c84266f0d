"""The registrar against a scripted forge: what a rate limit holds up, and what each call costs."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from coordinator.domain.changes import Step
from coordinator.domain.fleet import Credentials
from coordinator.domain.instance import Instance, Status
from coordinator.domain.timeline import Entry
from coordinator.engine.budgets import WINDOW, Budgets
from coordinator.engine.registrar import Registrar
from coordinator.forges.contract import (
    ForgeError,
    ForgeRefused,
    ForgeRunner,
    ForgeUnavailable,
    RunnerBusy,
    RunnerConfiguration,
    RunnerExists,
)
from coordinator.runner_api.waiting import Waiting
from tests.samples.domain import NOW
from tests.samples.store import Sample, open_sample

SOON = timedelta(seconds=0.3)


class Forge:
    """Answers each call with the next of its errors, then well."""

    def __init__(self, errors: Iterable[ForgeError] = ()) -> None:
        self.errors = list(errors)
        self.asked: list[tuple[str, float]] = []

    def _ask(self, what: str) -> None:
        self.asked.append((what, time.monotonic()))
        if self.errors:
            raise self.errors.pop(0)

    async def configure_runner(self, name: str, labels: object, group: str) -> RunnerConfiguration:
        self._ask("configure")
        return RunnerConfiguration(7, {".runner": b"x"})

    async def runner_named(self, name: str) -> ForgeRunner | None:
        return ForgeRunner(9, name, "offline", False)

    async def remove_runner(self, runner_id: int) -> None:
        self._ask(f"remove {runner_id}")

    async def of(self, _: str) -> "Forge":
        return self

    @property
    def calls(self) -> list[str]:
        return [what for what, _ in self.asked]


class Desk:
    """The registrar with its neighbours; the clock runs."""

    def __init__(self, sample: Sample, credentials: str) -> None:
        self.sample = sample
        self.credentials = credentials
        self.forge = Forge()
        self.budgets = Budgets()
        self.budgets.limit([Credentials(credentials, "bot", "forge", 100)])
        began = time.monotonic()
        self.clock: Callable[[], datetime] = lambda: NOW + timedelta(seconds=time.monotonic() - began)
        self.registrar = Registrar(
            sample.store,
            self.forge,  # type: ignore[arg-type]  # all that it is asked for
            Waiting(),
            self.budgets,
            self.clock,
            lambda: 0.0,
        )

    async def configure(self, *machines: Instance) -> None:
        await asyncio.gather(*(self.registrar.configure(machine, self.sample.pool) for machine in machines))

    def spent(self) -> int:
        """How many calls were counted."""
        return 100 - self.budgets.now(self.clock())[self.credentials].calls

    def gaps(self) -> list[float]:
        times = [at for _, at in self.forge.asked]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_sample(tmp_path) as sample:
        yield Desk(sample, (await sample.store.catalog.entities())[0].credentials_id)


async def test_a_call_that_goes_well_is_made_once_and_is_counted_once(desk: Desk) -> None:
    machine = await desk.sample.instance()
    await desk.configure(machine)
    assert desk.forge.calls == ["configure"]
    assert (await desk.sample.now(machine)).forge_runner_id == 7
    assert desk.spent() == 1


async def test_a_forge_that_is_down_is_asked_again_and_each_repetition_costs(desk: Desk) -> None:
    desk.forge.errors = [ForgeUnavailable("down"), ForgeUnavailable("down")]
    machine = await desk.sample.instance()
    await desk.configure(machine)
    assert desk.forge.calls == ["configure"] * 3
    assert [gap >= least for gap, least in zip(desk.gaps(), (0.49, 0.99), strict=True)] == [True, True]
    assert desk.spent() == 3
    assert (await desk.sample.now(machine)).forge_runner_id == 7


async def test_a_lost_answer_costs_one_call_more(desk: Desk) -> None:
    desk.forge.errors = [RunnerExists("there")]
    await desk.configure(await desk.sample.instance())
    assert desk.forge.calls == ["configure", "remove 9", "configure"]
    assert desk.spent() == 2


async def test_a_rate_limit_holds_up_every_call_with_these_credentials_for_as_long_as_it_says(desk: Desk) -> None:
    desk.forge.errors = [ForgeUnavailable("limit", retry_after=SOON)]
    machines = [await desk.sample.instance(number) for number in (1, 2, 3)]
    first = asyncio.create_task(desk.configure(machines[0]))
    while not desk.budgets.paused_until(desk.credentials, desk.clock()):
        await asyncio.sleep(0)
    assert desk.budgets.now(desk.clock())[desk.credentials].calls == 0  # the planner plans none meanwhile
    await asyncio.gather(desk.configure(*machines[1:]), desk.registrar.remove(machines[0].entity_id, 4), first)
    assert sorted(desk.forge.calls) == ["configure"] * 4 + ["remove 4"]
    limited = desk.forge.asked[0][1]
    assert all(at - limited >= SOON.total_seconds() for _, at in desk.forge.asked[1:])
    assert desk.spent() == 4


async def test_a_limit_beyond_the_bootstrap_time_ends_the_instance_with_the_reason(desk: Desk) -> None:
    desk.forge.errors = [ForgeUnavailable("the limit is reached", retry_after=timedelta(hours=1))]
    machine = await desk.sample.instance()
    await desk.configure(machine)
    ended = await desk.sample.now(machine)
    assert ended.status is Status.PENDING_DELETE
    assert "the limit is reached" in ended.fault
    assert desk.forge.calls == ["configure"]


async def test_no_runner_is_asked_for_when_its_instance_was_sent_away_during_the_limit(desk: Desk) -> None:
    machine = await desk.sample.instance()
    desk.budgets.pause(desk.credentials, desk.clock() + timedelta(seconds=2))
    configuring = asyncio.create_task(desk.configure(machine))
    await asyncio.sleep(0.05)
    await desk.sample.store.instances.retire(machine.id, "not wanted")
    await configuring
    assert desk.forge.calls == []


async def test_a_refusal_ends_the_instance_at_once(desk: Desk) -> None:
    desk.forge.errors = [ForgeRefused("no")]
    machine = await desk.sample.instance()
    await desk.configure(machine)
    assert desk.forge.calls == ["configure"]
    assert (await desk.sample.now(machine)).status is Status.PENDING_DELETE


@pytest.mark.parametrize(
    "no", [ForgeRefused("HTTP 401"), ForgeUnavailable("down", retry_after=timedelta(hours=1))], ids=["refused", "down"]
)
async def test_a_forge_that_gives_no_runner_lets_the_pool_rest_and_says_nothing_of_the_job(
    desk: Desk, no: ForgeError
) -> None:
    desk.forge.errors = [no]
    machine = await desk.sample.instance()
    await desk.configure(machine)
    (pool,) = await desk.sample.store.catalog.pools()
    assert pool.failures == 1
    assert str(no) in pool.fault
    job = await desk.sample.store.history.job(machine.for_job)
    assert job is not None
    assert (job.tries, job.retry_at) == (0, None)


async def test_a_runner_goes_unless_the_forge_says_that_it_is_busy(desk: Desk) -> None:
    entity = desk.sample.entity_id
    assert await desk.registrar.remove(entity, 4)
    desk.forge.errors = [RunnerBusy("busy"), ForgeUnavailable("down")]
    assert not await desk.registrar.remove(entity, 4)
    with pytest.raises(ForgeUnavailable):
        await desk.registrar.remove(entity, 4)


async def test_what_is_planned_counts_until_it_is_called_or_given_up(desk: Desk) -> None:
    desk.budgets.limit([Credentials(desk.credentials, "bot", "forge", 3)])
    called, given_up, coming = [await desk.sample.instance(number) for number in (1, 2, 3)]
    for machine in (called, given_up, coming):
        desk.budgets.plan(desk.credentials, machine.id)
    assert desk.budgets.now(desk.clock())[desk.credentials].calls == 0
    await desk.configure(called)
    assert desk.budgets.now(desk.clock())[desk.credentials].calls == 0
    await desk.sample.store.instances.retire(given_up.id, "not wanted")
    await desk.configure(given_up)
    assert desk.budgets.now(desk.clock())[desk.credentials].calls == 1


async def test_a_call_waits_when_the_minute_is_full(desk: Desk) -> None:
    desk.budgets.limit([Credentials(desk.credentials, "bot", "forge", 2)])
    desk.budgets.remember([(desk.credentials, desk.clock() - WINDOW + SOON), (desk.credentials, desk.clock())])
    began = desk.clock()
    await desk.configure(await desk.sample.instance())
    assert desk.forge.calls == ["configure"]
    assert desk.clock() - began >= SOON - timedelta(milliseconds=20)


async def test_a_new_life_knows_what_was_registered_lately(desk: Desk) -> None:
    store = desk.sample.store
    done, waiting = await desk.sample.instance(1), await desk.sample.instance(2)
    await store.instances.configure_runner(done.id, 7, {})
    lately = await store.planning.registered_since(desk.sample.clock() - WINDOW)
    assert [credentials for credentials, _ in lately] == [desk.credentials] * 2
    desk.sample.clock.move(minutes=2)
    await store.instances.retire(waiting.id, "not wanted")
    assert await store.planning.registered_since(desk.sample.clock() - WINDOW) == []


async def test_what_was_registered_lately_is_found_beneath_all_that_happened_since(desk: Desk) -> None:
    store = desk.sample.store
    done = await desk.sample.instance(1)
    await store.instances.configure_runner(done.id, 7, {})
    store.notes.add(Entry(Step.COMMITTED, desk.sample.clock(), f"job-{number}") for number in range(20_001))
    await store.notes.flush()
    assert len(await store.planning.registered_since(desk.sample.clock() - WINDOW)) == 1


def test_a_registration_that_was_planned_with_other_credentials_does_not_use_those_up_for_ever() -> None:
    budgets = Budgets()
    budgets.limit([Credentials("old", "bot", "forge", 3), Credentials("new", "bot", "forge", 3)])
    budgets.plan("old", "first")
    budgets.plan("old", "second")
    assert budgets.now(NOW)["old"].calls == 1
    budgets.spend("new", "first")
    budgets.give_up("second")
    assert {name: budget.calls for name, budget in budgets.now(NOW).items()} == {"old": 3, "new": 2}


def test_the_minute_of_a_call_begins_with_its_answer_and_a_call_without_one_counts() -> None:
    budgets, begun = Budgets(), NOW
    budgets.limit([Credentials("token", "bot", "forge", 2)])
    budgets.spend("token", "first")
    budgets.spend("token", "second")
    assert budgets.now(begun)["token"].calls == 0
    assert budgets.full_until("token", begun) == begun + WINDOW
    answers = [begun + timedelta(seconds=10), begun + timedelta(seconds=11)]
    for answer in answers:
        budgets.answered("token", answer)
    assert budgets.full_until("token", begun + WINDOW) == answers[0] + WINDOW
    assert budgets.full_until("token", answers[0] + WINDOW) is None
    budgets.spend("token", "third")
    assert budgets.full_until("token", answers[0] + WINDOW) == answers[1] + WINDOW
