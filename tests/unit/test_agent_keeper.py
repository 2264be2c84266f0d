"""The keeper with a simulated provider: what happens when commands, failures and restarts cross."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.backoff import Backoff
from agent.endings import Ending, Endings
from agent.keeper import Keeper
from agent.outbox import Outbox
from agent.pressure import HostUnderPressure
from coordinator.domain.changes import REFUSED
from hostler.errors import HostlerError
from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import Arch, Bootstrap, InstanceSpec, Machine, MachineState, Phase, Resources
from providers.simulated import SimulatedProvider, SimulatedSettings

SETTINGS = SimulatedSettings(disk_seconds=0, start_seconds=0)


def spec(instance_id: str, generation: int = 1) -> InstanceSpec:
    return InstanceSpec(
        instance_id, generation, instance_id, "simulated", Resources(1, 256, 1), Arch.AMD64, "p", Bootstrap("", "", "t")
    )


class Gate:
    """Stands for time: creates wait at it until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = 0

    async def __call__(self, _: float) -> None:
        self.waiting += 1
        await self.open.wait()


class FullDisk(Endings):
    async def persist(self, ending: Ending) -> None:
        raise OSError(28, f"No space left on device for {ending.instance_id}")


class Bench:
    """A keeper with all that it needs; `told` is what the coordinator would hear."""

    def __init__(self, folder: Path, *, endings: type[Endings] = Endings, creates_at_once: int = 4) -> None:
        self.gate = Gate()
        self.gate.open.set()
        self.refusal: HostlerError | None = None
        self.provider = SimulatedProvider(SETTINGS, directory=folder / "instances", sleep=self.gate)
        self.outbox = Outbox()
        self.endings = endings(folder / "endings.jsonl", now=lambda: datetime.now(UTC))
        self.endings.load()
        self.keeper = Keeper(
            self.provider,
            self.outbox,
            self.endings,
            now=lambda: datetime.now(UTC),
            rng=random.Random(1),  # noqa: S311 - the same delays in each run
            retry=Backoff(first_seconds=30, most_seconds=30),
            creates_at_once=creates_at_once,
            create_grace_seconds=0.05,
            refusal=lambda: self.refusal,
        )

    async def begin(self) -> None:
        await self.provider.open(self.keeper.stopped)
        await self.keeper.adopt()

    async def until_told(self, *wanted: str) -> None:
        async with asyncio.timeout(5):
            while self.told()[-len(wanted) :] != list(wanted):
                self.outbox.changed.clear()
                await self.outbox.changed.wait()

    def told(self) -> list[str]:
        """`instance generation phase` of each event."""
        found, position = [], 0
        while (entry := self.outbox.after(position)) is not None:
            position = entry.position
            if entry.message.HasField("event"):
                event = entry.message.event
                found.append(f"{event.instance_id} {event.generation} {pb.Phase.Name(event.phase)[6:].lower()}")
        return found


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.begin()
    yield made
    await made.keeper.close(0)


async def test_a_create_still_in_the_queue_is_given_up_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, creates_at_once=1)
    await bench.begin()
    bench.gate.open.clear()
    bench.keeper.create(spec("a"))
    bench.keeper.create(spec("b"))
    await bench.until_told("a 1 accepted")
    bench.keeper.delete("b", 2)
    await bench.until_told("b 2 deleted")
    bench.gate.open.set()
    await bench.until_told("a 1 disk", "a 1 started")
    assert [made.instance_id for made in bench.provider.create_calls] == ["a"]


async def test_a_create_under_way_may_end_before_its_delete(bench: Bench) -> None:
    bench.gate.open.clear()
    bench.keeper.create(spec("a"))
    await bench.until_told("a 1 accepted")
    bench.keeper.delete("a", 2)
    bench.gate.open.set()
    await bench.until_told("a 1 accepted", "a 2 deleted")
    assert await bench.provider.inventory() == []


async def test_an_instance_of_a_newer_generation_is_made_once_the_old_one_is_gone(bench: Bench) -> None:
    bench.keeper.create(spec("a", 1))
    await bench.until_told("a 1 accepted", "a 1 disk", "a 1 started")
    bench.keeper.delete("a", 2)
    bench.keeper.create(spec("a", 3))
    await bench.until_told("a 2 deleted", "a 3 accepted", "a 3 disk", "a 3 started")
    (machine,) = await bench.keeper.inventory()
    assert machine.generation == 3


async def test_a_delete_of_an_older_generation_is_ignored(bench: Bench) -> None:
    bench.keeper.create(spec("a", 5))
    await bench.until_told("a 5 started")
    bench.keeper.delete("a", 4)
    await asyncio.sleep(0)
    assert bench.provider.delete_calls == []
    assert [machine.state for machine in await bench.keeper.inventory()] == [MachineState.RUNNING]


async def test_a_repeated_delete_does_not_wait_for_the_next_try(bench: Bench) -> None:
    bench.keeper.create(spec("a"))
    await bench.until_told("a 1 started")
    bench.provider.faults.deletes_failing = 1
    bench.keeper.delete("a", 2)
    await bench.until_told("a 2 delete_failed")
    bench.keeper.delete("a", 3)  # the next try would be 15 s away
    await bench.until_told("a 3 deleted")


async def test_a_delete_of_something_unknown_says_deleted(bench: Bench) -> None:
    bench.keeper.delete("a", 2)
    await bench.until_told("a 2 deleted")
    bench.keeper.delete("a", 2)
    bench.outbox.acknowledge(1)
    await bench.until_told("a 2 deleted")
    assert bench.provider.delete_calls == ["a", "a"]


async def test_a_full_disk_does_not_keep_a_machine_from_being_deleted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, endings=FullDisk)
    await bench.begin()
    bench.keeper.create(spec("a"))
    await bench.until_told("a 1 started")
    bench.keeper.delete("a", 2)
    await bench.until_told("a 2 deleted")
    bench.keeper.create(spec("a"))
    assert len(bench.provider.create_calls) == 1


async def test_the_delete_is_on_disk_before_anything_is_destroyed(bench: Bench, tmp_path: Path) -> None:
    bench.keeper.create(spec("a"))
    await bench.until_told("a 1 started")
    bench.provider.faults.deletes_failing = 1
    bench.keeper.delete("a", 2)
    await bench.until_told("a 2 delete_failed")
    read = Endings(tmp_path / "endings.jsonl", now=lambda: datetime.now(UTC))
    read.load()
    ending = read.get("a")
    assert ending is not None
    assert (ending.generation, ending.phase) == (2, Phase.DELETED)


async def test_a_provider_that_breaks_undeclared_is_told_as_internal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> Machine:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(bench.provider, "create", broken)
    bench.keeper.create(spec("a"))
    await bench.until_told("a 1 failed")
    entry = bench.outbox.after(0)
    assert entry is not None
    assert entry.message.event.error_code == "internal"
    assert "ZeroDivisionError: oh" in entry.message.event.detail


async def test_a_machine_that_was_there_unknown_to_the_agent_is_taken_as_it_is(bench: Bench) -> None:
    await bench.provider.create(spec("a"), lambda _: None)
    bench.keeper.create(spec("a"))
    await bench.until_told("a 1 accepted", "a 1 disk", "a 1 started")


async def test_a_machine_that_vanished_is_forgotten_and_can_be_made_again(bench: Bench) -> None:
    bench.keeper.create(spec("a"))
    await bench.keeper.close(5)  # the create has come to its end
    await bench.provider.delete("a")
    assert await bench.keeper.inventory() == []
    bench.keeper.create(spec("a", 2))
    await bench.until_told("a 2 accepted", "a 2 disk", "a 2 started")


async def test_a_stop_between_opening_and_adopting_is_told(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    await first.begin()
    first.keeper.create(spec("a"))
    await first.until_told("a 1 started")
    second = Bench(tmp_path)
    await second.provider.open(second.keeper.stopped)
    machines = await second.provider.inventory()
    await second.provider.power_off("a")  # the event is there before the keeper knows of the machine

    async def late() -> list[Machine]:
        return machines

    second.provider.inventory = late  # type: ignore[method-assign]
    await second.keeper.adopt()
    await second.until_told("a 1 stopped")


async def test_a_host_under_pressure_begins_nothing_and_says_so_once_and_for_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.begin()
    bench.keeper.create(spec("held"))
    await bench.until_told("held 1 started")
    bench.refusal = HostUnderPressure("this host is short: 1 GiB of disk available, 5 wanted")
    bench.keeper.create(spec("new"))
    assert bench.told()[-1] == "new 1 failed"
    entry = bench.outbox.after(bench.outbox._positions - 1)
    assert entry is not None
    assert entry.message.event.error_code == REFUSED  # the coordinator knows it by this
    # What is there already is not refused, and what was refused is not made when the command is repeated.
    bench.keeper.create(spec("held"))
    bench.refusal = None
    bench.outbox.acknowledge(1000)
    bench.keeper.create(spec("new"))
    assert bench.told()[-1] == "new 1 failed"
    assert [machine.instance_id for machine in await bench.keeper.inventory()] == ["held"]
    bench.keeper.delete("new", 2)
    await bench.until_told("new 2 deleted")
    await bench.keeper.close(1)
