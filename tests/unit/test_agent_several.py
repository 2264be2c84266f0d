"""Several providers in one agent: who gets what, and what one that is away may change for the others."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import daemon
from agent.backoff import Backoff
from agent.held import Records
from agent.several import DriverOut, Part, Several
from agent.with_simulated import SimulatedConfig
from coordinator.domain.changes import DRIVER_OUT
from hostler.errors import HostlerError
from providers.contract import Arch, Bootstrap, InstanceSpec, Machine, MachineState, ProviderError, Resources
from providers.simulated import SimulatedProvider, SimulatedSettings

QUICK = SimulatedSettings(disk_seconds=0, start_seconds=0)
SOON = Backoff(first_seconds=0.001, most_seconds=0.002)


def spec(instance_id: str, driver: str) -> InstanceSpec:
    return InstanceSpec(
        instance_id,
        3,
        instance_id,
        "simulated",
        Resources(1, 256, 1),
        Arch.AMD64,
        "p",
        Bootstrap("", "", "t"),
        driver=driver,
    )


class Hangs(SimulatedProvider):
    """Its daemon takes questions and answers none."""

    hanging = False

    async def inventory(self) -> list[Machine]:
        if self.hanging:
            await asyncio.Event().wait()
        return await super().inventory()


class Bench:
    """Two providers and the agent's own records; `again` is the agent's next process."""

    def __init__(self, folder: Path, *, answer_seconds: float = 5.0) -> None:
        self.folder = folder
        self.left = Hangs(QUICK, directory=folder / "left", name="left")
        self.right = SimulatedProvider(QUICK, directory=folder / "right", name="right")
        self.stopped: list[str] = []
        self.changes = 0
        parts = [Part("left", self.left, ["left"]), Part("right", self.right, ["right", "right-small"])]
        self.both = Several(parts, Records(folder / "held"), retry=SOON, open_seconds=5, answer_seconds=answer_seconds)
        self.both.on_change = self._changed

    def _changed(self) -> None:
        self.changes += 1

    async def open(self) -> "Bench":
        await self.both.open(self.stopped.append)
        return self

    async def again(self, *, left_away: str = "") -> "Bench":
        await self.both.close()
        fresh = Bench(self.folder)
        fresh.left.away = left_away
        return await fresh.open()

    async def make(self, instance_id: str, driver: str) -> Machine:
        return await self.both.create(spec(instance_id, driver), lambda _: None)

    async def held(self) -> dict[str, MachineState]:
        return {machine.instance_id: machine.state for machine in await self.both.inventory()}

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "held").glob("*"))


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_each_instance_goes_to_the_provider_of_its_driver_and_is_deleted_there(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).open()
    assert [driver.name for driver in bench.both.drivers] == ["left", "right"]
    await bench.make("a", "left")
    await bench.make("b", "right")
    assert await bench.held() == {"a": MachineState.RUNNING, "b": MachineState.RUNNING}
    assert [made.instance_id for made in bench.left.create_calls] == ["a"]
    bench = await bench.again()
    await bench.both.delete("b")
    assert (bench.left.delete_calls, bench.right.delete_calls) == ([], ["b"])
    await bench.both.delete("a")
    assert bench.files() == []
    assert await bench.held() == {}


async def test_a_driver_that_nobody_has_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).open()
    with pytest.raises(ProviderError, match="no driver 'middle'"):
        await bench.make("a", "middle")
    assert bench.files() == []


async def test_one_that_goes_away_is_said_at_once_and_the_other_goes_on(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).open()
    await bench.make("a", "right")
    bench.right.go_away("the daemon ended")
    assert bench.changes == 1
    assert bench.both.out == {"right": "the daemon ended", "right-small": "the daemon ended"}
    assert [driver.name for driver in bench.both.drivers] == ["left"]
    await bench.make("b", "left")
    with pytest.raises(DriverOut, match="right cannot be used now: the daemon ended") as caught:
        await bench.make("c", "right")
    assert caught.value.code == DRIVER_OUT  # as the coordinator knows it
    with pytest.raises(DriverOut):
        await bench.both.delete("a")
    await bench.both.delete("c")  # of which nothing was begun
    assert await bench.held() == {"a": MachineState.RUNNING, "b": MachineState.RUNNING}
    bench.right.come_back()
    await until(lambda: bench.changes == 2)
    assert bench.both.out == {}
    await bench.both.delete("a")
    assert await bench.held() == {"b": MachineState.RUNNING}


async def test_one_that_is_away_at_the_start_has_what_it_had_and_is_opened_when_it_comes(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).open()
    await bench.make("a", "left")
    await bench.make("b", "right")
    await bench.make("c", "left")
    await bench.left.power_off("c")
    await until(lambda: bench.stopped == ["c"])
    bench = await bench.again(left_away="not started yet")
    assert bench.both.out == {"left": "not started yet"}
    assert await bench.held() == {"a": MachineState.RUNNING, "b": MachineState.RUNNING, "c": MachineState.STOPPED}
    bench.left.come_back()
    await until(lambda: bench.changes == 1)
    assert [driver.name for driver in bench.both.drivers] == ["left", "right"]
    await bench.left.power_off("a")
    assert bench.stopped == ["a"]


async def test_what_went_while_its_provider_was_away_is_gone_when_that_is_back(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).open()
    await bench.make("a", "left")
    await bench.both.close()
    (tmp_path / "left/a.json").unlink()
    bench = Bench(tmp_path)
    bench.left.away = "away"
    await bench.open()
    assert await bench.held() == {"a": MachineState.RUNNING}
    bench.left.come_back()
    await until(lambda: not bench.both.out)
    assert await bench.held() == {}
    assert bench.files() == []


async def test_machines_of_before_there_were_records_are_learnt_from_the_inventory(tmp_path: Path) -> None:
    alone = SimulatedProvider(QUICK, directory=tmp_path / "left", name="left")
    await alone.open(lambda _: None)
    await alone.create(spec("a", "left"), lambda _: None)
    bench = await Bench(tmp_path).open()
    await bench.held()
    bench = await bench.again(left_away="away")
    assert await bench.held() == {"a": MachineState.RUNNING}


async def test_a_torn_record_is_mended_by_the_inventory(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).open()
    await bench.make("a", "left")
    (tmp_path / "held/a.json").write_bytes(b'{"provider":')
    bench = await bench.again()
    await bench.held()
    bench = await bench.again(left_away="away")
    assert await bench.held() == {"a": MachineState.RUNNING}


async def test_a_create_in_which_its_provider_goes_away_is_nobodys_failure_and_is_cleared_later(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).open()

    async def goes(_: float) -> None:
        bench.left.away = "it went"
        bench.left._check_there()

    bench.left._sleep = goes
    with pytest.raises(DriverOut, match="it went"):
        await bench.make("a", "left")
    with pytest.raises(DriverOut):
        await bench.both.delete("a")
    bench.left.come_back()
    await until(lambda: not bench.both.out)
    await bench.both.delete("a")
    assert bench.files() == []


async def test_one_that_answers_nothing_is_out_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    bench = await Bench(tmp_path, answer_seconds=0.02).open()
    await bench.make("a", "left")
    await bench.make("b", "right")
    bench.left.hanging = True
    async with asyncio.timeout(5):
        assert await bench.held() == {"a": MachineState.RUNNING, "b": MachineState.RUNNING}
    assert "does not say what it holds" in bench.both.out["left"]
    assert [driver.name for driver in bench.both.drivers] == ["right"]


async def test_without_any_provider_there_is_no_agent(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.left.away, bench.right.away = "the one", "the other"
    with pytest.raises(HostlerError, match="left: the one; right: the other"):
        await bench.open()


async def test_a_create_under_way_is_not_taken_for_gone(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).open()
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def waits(_: float) -> None:
        reached.set()
        await go_on.wait()

    bench.left._sleep = waits
    making = asyncio.create_task(bench.make("a", "left"))
    await reached.wait()
    bench.left._records.clear()  # not in its inventory yet
    assert await bench.held() == {}
    assert bench.files() == ["a.json"]
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await bench.held()
    assert bench.files() == []


async def test_a_check_says_which_driver_an_agent_would_begin_without(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    config = SimulatedConfig(simulated=QUICK, data_dir=str(tmp_path))
    assert await daemon.check(config, bench.both)
    bench = Bench(tmp_path)
    bench.right.away = "there is no daemon"
    with pytest.raises(DriverOut, match="there is no daemon"):
        await daemon.check(config, bench.both)
    assert not (tmp_path / "held").exists()


async def test_devices_are_those_of_all_drivers(tmp_path: Path) -> None:
    left, right = (
        Part(name, SimulatedProvider(SimulatedSettings(devices=counts), directory=tmp_path / name, name=name), [name])
        for name, counts in (("left", {"gpu": 2}), ("right", {"fpga": 1}))
    )
    assert Several([left, right], Records(tmp_path / "held")).devices == {"gpu": 2, "fpga": 1}
