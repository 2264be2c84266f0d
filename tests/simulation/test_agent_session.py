"""The agent against a played coordinator over real gRPC: the whole of its protocol, with simulated machines."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import InstanceSpec, MachineState
from providers.simulated import SimulatedProvider, SimulatedSettings
from tests.simulation.agent_harness import QUICK, PlayedCoordinator, new_id, running_agent

MADE = ["accepted", "disk", "started"]


@pytest.fixture
def provider(tmp_path: Path) -> SimulatedProvider:
    return SimulatedProvider(QUICK, directory=tmp_path / "instances")


async def test_hello_tells_host_capacity_driver_and_images(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        hello = await coordinator.hears_hello(1)
    assert coordinator.story()[0] == "hello"
    assert hello.host == "build-1"
    assert hello.arch in {"amd64", "arm64"}
    assert hello.agent_version
    assert min(hello.capacity.vcpus, hello.capacity.memory_mib, hello.capacity.disk_gib) >= 1
    assert [(d.name, d.acceleration, list(d.images)) for d in hello.drivers] == [("simulated", "none", ["simulated"])]
    assert not hello.inventory.machines


async def test_a_create_is_told_phase_by_phase_in_order(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id(), generation=7)
        await coordinator.hears(one, "started")
        events = coordinator.events(one)
        assert coordinator.phases(one) == MADE
        assert [event.sequence for event in events] == [1, 2, 3]
        assert {event.generation for event in events} == {7}
        assert [event.at.ToDatetime() for event in events] == sorted(event.at.ToDatetime() for event in events)
    (spec,) = provider.create_calls
    assert spec.bootstrap.token == "secret-token"


async def test_a_repeated_create_repeats_its_phases_and_makes_nothing(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "started")
        coordinator.create(one)
        await coordinator.hears(one, "started", times=2)
    first, second = coordinator.events(one)[:3], coordinator.events(one)[3:]
    assert coordinator.phases(one) == MADE + MADE
    assert [event.at for event in second] == [event.at for event in first]
    assert len(provider.create_calls) == 1


async def test_a_delete_sends_the_console_then_says_deleted(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "started")
        await provider.write_console(one, b"x" * 2**20)
        coordinator.delete(one, generation=2)
        await coordinator.hears(one, "deleted")
        assert await provider.inventory() == []
    spoken = [word for word in coordinator.story() if word != "heartbeat"]
    assert spoken == ["hello", *MADE, "console_log", "deleted"]
    (log,) = [message.console_log for message in coordinator.heard if message.HasField("console_log")]
    assert (log.instance_id, log.data, log.truncated) == (one, b"x" * 2**20, True)
    assert coordinator.events(one)[-1].generation == 2
    assert list((tmp_path / "instances").iterdir()) == []


async def test_a_late_create_after_the_delete_boots_nothing(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator:
        async with running_agent(tmp_path, coordinator.port, provider):
            await coordinator.hears_hello(1)
            coordinator.create(one := new_id(), generation=1)
            coordinator.delete(one, generation=1)
            await coordinator.hears(one, "deleted")
        calls = len(provider.create_calls)
        fresh = SimulatedProvider(QUICK, directory=tmp_path / "instances")
        async with running_agent(tmp_path, coordinator.port, fresh):  # remembered also by a new process
            await coordinator.hears_hello(2)
            coordinator.create(one, generation=1)
            coordinator.create(two := new_id())  # commands are taken in order: once this runs, that one was ignored
            await coordinator.hears(two, "started")
        assert len(provider.create_calls) == calls
        assert [spec.instance_id for spec in fresh.create_calls] == [two]


async def test_unacknowledged_events_come_again_in_order_and_machines_live_through_an_outage(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.acks = False
        coordinator.create(one := new_id())
        await coordinator.hears(one, "started")
        await coordinator.stop()
        await provider.power_off(one)  # an event that falls into the outage
        coordinator.acks = True
        await coordinator.start()
        hello = await coordinator.hears_hello(2)
        await coordinator.hears(one, "stopped")
        assert coordinator.phases(one) == [*MADE, *MADE, "stopped"]
        assert [event.sequence for event in coordinator.events(one)] == [1, 2, 3, 1, 2, 3, 4]
        assert [machine.instance_id for machine in hello.inventory.machines] == [one]
    assert provider.delete_calls == []


async def test_acknowledged_events_are_not_sent_again(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "started")
        coordinator.create(two := new_id())  # its events come after the acknowledgements of the first were read
        await coordinator.hears(two, "started")
        await coordinator.stop()
        await coordinator.start()
        await coordinator.hears_hello(2)
        coordinator.create(three := new_id())
        await coordinator.hears(three, "started")
        assert coordinator.phases(one) == MADE


async def test_a_machine_that_powers_off_is_told_as_stopped(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "started")
        await provider.power_off(one)
        await coordinator.hears(one, "stopped")
        assert coordinator.phases(one) == [*MADE, "stopped"]


async def test_a_machine_that_dies_at_once_is_started_before_it_is_stopped(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    provider.faults.machines_dying = 1
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "stopped")
        assert coordinator.phases(one) == [*MADE, "stopped"]


async def test_a_guest_can_be_played(tmp_path: Path) -> None:
    async def guest(spec: InstanceSpec) -> None:
        await played.write_console(spec.instance_id, b"job done\n")
        await played.power_off(spec.instance_id)

    played = SimulatedProvider(QUICK, on_start=guest)
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, played):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "stopped")
        assert (await played.console(one, 9)) == (b"job done\n", True)


@pytest.mark.parametrize("fault", ["creates_failing", "create_answers_lost"])
async def test_a_failed_create_says_why_and_leaves_nothing(
    tmp_path: Path, provider: SimulatedProvider, fault: str
) -> None:
    setattr(provider.faults, fault, 1)
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "failed")
        event = coordinator.events(one)[-1]
        assert event.detail.startswith("simulated: ")
        assert event.error_code == "provider_failed"
        assert await provider.inventory() == []
        coordinator.create(one)
        await coordinator.hears(one, "failed", times=2)
        assert coordinator.events(one)[-1].detail == event.detail
        assert len(provider.create_calls) == 1


async def test_what_a_failed_create_left_is_removed_by_and_by(tmp_path: Path, provider: SimulatedProvider) -> None:
    provider.faults.create_answers_lost = 1
    provider.faults.deletes_failing = 2
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "deleted")
        assert coordinator.phases(one) == [*MADE, "failed", "delete_failed", "deleted"]
        assert "clearing up failed too" in coordinator.events(one)[3].detail
        assert await provider.inventory() == []


async def test_a_delete_that_fails_twice_is_tried_until_it_succeeds(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "started")
        provider.faults.deletes_failing = 2
        coordinator.delete(one)
        await coordinator.hears(one, "deleted")
        told = coordinator.phases(one)
        assert told[3] == "delete_failed"
        assert told[-1] == "deleted"
        assert told.count("delete_failed") <= 2
        assert coordinator.events(one)[3].detail == "simulated: the delete fails"
        assert provider.delete_calls == [one] * 3
        assert coordinator.story().count("console_log") == 1


async def test_a_hung_create_gives_way_to_a_delete(tmp_path: Path, provider: SimulatedProvider) -> None:
    provider.faults.creates_hanging = 1
    async with (
        PlayedCoordinator() as coordinator,
        running_agent(tmp_path, coordinator.port, provider, create_grace_seconds=0.05),
    ):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "accepted")
        coordinator.delete(one)
        await coordinator.hears(one, "deleted")
        assert coordinator.phases(one) == ["accepted", "deleted"]
        assert await provider.inventory() == []


async def test_creates_run_side_by_side(tmp_path: Path) -> None:
    both = asyncio.Barrier(2)

    async def meet(_: float) -> None:
        await both.wait()

    provider = SimulatedProvider(QUICK, sleep=meet)  # neither goes on before the other has come as far
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        coordinator.create(two := new_id())
        await coordinator.hears(one, "started")
        await coordinator.hears(two, "started")


async def test_an_orderly_stop_closes_the_stream_and_lets_machines_run(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    async with PlayedCoordinator() as coordinator:
        async with running_agent(tmp_path, coordinator.port, provider) as stop:
            await coordinator.hears_hello(1)
            coordinator.create(one := new_id())
            await coordinator.hears(one, "started")
            stop.set()
        assert coordinator.streams_closed_by_agent == 1
    (machine,) = await provider.inventory()
    assert machine.state is MachineState.RUNNING
    assert provider.delete_calls == []


async def test_heartbeats_come_with_measurements(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with (
        PlayedCoordinator(heartbeat_seconds=1) as coordinator,
        running_agent(tmp_path, coordinator.port, provider),
    ):
        await coordinator.until(lambda: coordinator.story().count("heartbeat") >= 2)
    beat = next(message.heartbeat for message in coordinator.heard if message.HasField("heartbeat"))
    assert beat.memory_available_mib > 0
    assert beat.disk_available_gib > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"driver": "lxd"}, "has no driver 'lxd'"),
        ({"arch": "riscv64"}, "none of amd64, arm64"),
        ({"name": "../etc"}, "not a host name"),
    ],
)
async def test_a_command_that_cannot_be_carried_out_is_refused(
    tmp_path: Path, provider: SimulatedProvider, changes: dict[str, Any], said: str
) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id(), **changes)
        await coordinator.hears(one, "failed")
        event = coordinator.events(one)[0]
        assert event.error_code == "command_invalid"
        assert said in event.detail
    assert provider.create_calls == []


async def test_an_id_that_is_a_path_reaches_no_provider(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create("../../etc/passwd")
        coordinator.delete("../../etc/passwd")
        await coordinator.hears("../../etc/passwd", "failed", "delete_failed")
    assert provider.create_calls == []
    assert provider.delete_calls == []


async def test_an_unknown_image_names_what_there_is(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id(), image="plan9")
        await coordinator.hears(one, "failed")
        assert coordinator.events(one)[0].error_code == "image_unavailable"
        assert "this host has simulated" in coordinator.events(one)[0].detail


async def test_without_an_inventory_nothing_is_said(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id())
        await coordinator.hears(one, "started")
        provider.faults.inventories_failing = 3
        await coordinator.stop()
        await coordinator.start()
        hello = await coordinator.hears_hello(2)
    assert provider.faults.inventories_failing == 0
    assert [machine.instance_id for machine in hello.inventory.machines] == [one]


async def test_a_create_on_its_way_is_in_the_inventory(tmp_path: Path) -> None:
    async def never(_: float) -> None:
        await asyncio.Event().wait()

    provider = SimulatedProvider(SimulatedSettings(), sleep=never)
    async with (
        PlayedCoordinator() as coordinator,
        running_agent(tmp_path, coordinator.port, provider, create_grace_seconds=0.05),
    ):
        await coordinator.hears_hello(1)
        wanted = [new_id() for _ in range(12)]  # more than are made at once: the rest waits in the agent
        for one in wanted:
            coordinator.create(one)
        coordinator.create("no-uuid")  # commands are taken in order: once this is refused, those were taken
        await coordinator.hears("no-uuid", "failed")
        await coordinator.stop()
        await coordinator.start()
        hello = await coordinator.hears_hello(2)
        assert {machine.instance_id for machine in hello.inventory.machines} == set(wanted)
        assert {machine.state for machine in hello.inventory.machines} == {pb.MACHINE_STATE_CREATING}
        for one in wanted:
            coordinator.delete(one)
        for one in wanted:
            await coordinator.hears(one, "deleted")
