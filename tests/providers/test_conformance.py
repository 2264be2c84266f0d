"""What every provider must do, whatever its machines are. Each test runs in each provider's world; see adapter.py."""

import asyncio

import msgspec
import pytest

from providers.contract import DeviceUnavailable, Machine, MachineState, Phase, ProviderError, Resources
from tests.providers.adapter import Adapter, Ends, Offers, Provider, ignore

MADE = [Phase.ACCEPTED, Phase.DISK, Phase.STARTED]


async def state_of(provider: Provider, instance_id: str) -> Machine:
    return next(machine for machine in await provider.inventory() if machine.instance_id == instance_id)


async def test_a_machine_is_made_and_shown(world: Adapter) -> None:
    provider = await world.open()
    assert await provider.inventory() == []
    wanted = world.spec()
    machine = await provider.create(wanted, ignore)
    assert (machine.instance_id, machine.name, machine.state) == (
        wanted.instance_id,
        wanted.name,
        MachineState.RUNNING,
    )
    assert await provider.inventory() == [machine]


@pytest.mark.needs(Offers.PHASES)
async def test_each_phase_is_told_once_in_order_and_kept_with_the_generation(world: Adapter) -> None:
    provider = await world.open()
    wanted = world.spec()
    told: list[Phase] = []
    machine = await provider.create(wanted, told.append)
    assert told == MADE
    assert (machine.generation, list(machine.phases)) == (wanted.generation, MADE)
    assert sorted(machine.phases.values()) == list(machine.phases.values())
    again = await world.open()
    assert await again.inventory() == [machine]


async def test_a_repeated_create_finds_the_same_machine(world: Adapter) -> None:
    provider = await world.open()
    wanted = world.spec()
    first = await provider.create(wanted, ignore)
    traces = world.traces()
    told: list[Phase] = []
    assert await provider.create(wanted, told.append) == first
    assert told == []
    assert world.traces() == traces


async def test_a_delete_leaves_nothing_and_may_be_repeated(world: Adapter) -> None:
    provider = await world.open()
    before = world.traces()
    wanted = world.spec()
    await provider.create(wanted, ignore)
    assert world.traces() != before
    for _ in range(2):
        await provider.delete(wanted.instance_id)
        assert world.traces() == before
        assert await provider.inventory() == []


async def test_a_delete_of_the_unknown_is_fine_and_touches_nobody(world: Adapter) -> None:
    provider = await world.open()
    machine = await provider.create(world.spec(), ignore)
    await provider.delete(world.spec().instance_id)
    assert await provider.inventory() == [machine]


async def test_what_was_deleted_can_be_made_again(world: Adapter) -> None:
    provider = await world.open()
    wanted = world.spec()
    await provider.create(wanted, ignore)
    await provider.delete(wanted.instance_id)
    newer = msgspec.structs.replace(wanted, generation=wanted.generation + 1)
    assert (await provider.create(newer, ignore)).state is MachineState.RUNNING


async def test_a_create_that_fails_halfway_leaves_nothing(world: Adapter) -> None:
    provider = await world.open()
    stays = await provider.create(world.spec(), ignore)
    before = world.traces()
    async with world.failing_halfway() as broken:
        with pytest.raises(ProviderError):
            await provider.create(broken, ignore)
    assert world.traces() == before
    assert await provider.inventory() == [stays]


async def test_an_image_that_is_missing_is_said_and_nothing_is_left(world: Adapter) -> None:
    provider = await world.open()
    before = world.traces()
    with pytest.raises(world.image_error, match="no-such-image"):
        await provider.create(world.spec(image="no-such-image"), ignore)
    assert world.traces() == before


@pytest.mark.needs(Offers.PHASES)
async def test_a_device_that_the_host_does_not_have_is_said_and_nothing_is_left(world: Adapter) -> None:
    provider = await world.open()
    before = world.traces()
    wanted = world.spec(resources=Resources(vcpus=1, memory_mib=64, disk_gib=1, devices={"no-such-device": 1}))
    with pytest.raises(DeviceUnavailable):
        await provider.create(wanted, ignore)
    assert world.traces() == before


async def test_a_full_disk_is_said_and_when_there_is_room_again_all_is_well(world: Adapter) -> None:
    provider = await world.open()
    before = world.traces()
    wanted = world.spec()
    async with world.no_space():
        with pytest.raises(ProviderError):
            await provider.create(wanted, ignore)
    assert world.traces() == before
    assert (await provider.create(wanted, ignore)).state is MachineState.RUNNING


async def test_a_name_that_is_taken_is_said_and_its_owner_lives_on(world: Adapter) -> None:
    provider = await world.open()
    owner = world.spec()
    machine = await provider.create(owner, ignore)
    before = world.traces()
    with pytest.raises(ProviderError):
        await provider.create(world.spec(name=owner.name), ignore)
    assert world.traces() == before
    assert await provider.inventory() == [machine]


async def test_a_new_provider_adopts_what_there_is(world: Adapter) -> None:
    provider = await world.open()
    kept, deleted = world.spec(), world.spec()
    machine = await provider.create(kept, ignore)
    await provider.create(deleted, ignore)
    await provider.close()
    again = await world.open()
    assert {machine.instance_id for machine in await again.inventory()} == {kept.instance_id, deleted.instance_id}
    await again.delete(deleted.instance_id)
    assert await again.inventory() == [machine]
    assert await again.create(kept, ignore) == machine


async def test_machines_outlive_what_drives_them_and_are_known_when_it_is_back(world: Adapter) -> None:
    provider = await world.open()
    kept, more = world.spec(), world.spec()
    machine = await provider.create(kept, ignore)
    async with world.down():
        with pytest.raises(ProviderError):
            await provider.create(more, ignore)
        with pytest.raises(ProviderError):
            await provider.delete(kept.instance_id)
        with pytest.raises(ProviderError):
            await provider.inventory()
    await until_back(provider)
    assert await provider.inventory() == [machine]
    assert (await provider.create(more, ignore)).state is MachineState.RUNNING
    await provider.delete(kept.instance_id)
    assert [machine.instance_id for machine in await provider.inventory()] == [more.instance_id]


async def test_machines_made_at_once_do_not_mix(world: Adapter) -> None:
    provider = await world.open()
    wanted = [world.spec() for _ in range(6)]
    made = await asyncio.gather(*(provider.create(one, ignore) for one in wanted))
    assert [(one.instance_id, one.name) for one in made] == [(one.instance_id, one.name) for one in wanted]
    assert {machine.state for machine in await provider.inventory()} == {MachineState.RUNNING}
    await asyncio.gather(*(provider.delete(one.instance_id) for one in wanted[:3]))
    assert {one.instance_id for one in await provider.inventory()} == {one.instance_id for one in wanted[3:]}


async def test_the_same_create_twice_at_once_makes_one_machine(world: Adapter) -> None:
    provider = await world.open()
    wanted = world.spec()
    first, second = await asyncio.gather(provider.create(wanted, ignore), provider.create(wanted, ignore))
    assert first == second
    assert await provider.inventory() == [first]


async def test_a_delete_during_a_create_wins(world: Adapter) -> None:
    provider = await world.open()
    before = world.traces()
    wanted = world.spec()
    begun = asyncio.Event()
    creating = asyncio.create_task(provider.create(wanted, lambda _: begun.set()))
    if Offers.PHASES in world.offers:
        await begun.wait()
    else:
        await asyncio.sleep(0)
    await provider.delete(wanted.instance_id)
    await creating
    assert world.traces() == before
    assert await provider.inventory() == []


@pytest.mark.needs(Offers.EVENTS)
async def test_a_machine_that_ends_is_told_once_and_never_used_again(world: Adapter) -> None:
    ends = Ends()
    provider = await world.open(ends)
    wanted, witness = world.spec(), world.spec()
    await provider.create(wanted, ignore)
    await provider.create(witness, ignore)
    await world.end(wanted.instance_id)
    assert await ends.next() == wanted.instance_id
    spent = await state_of(provider, wanted.instance_id)
    assert (spent.state, list(spent.phases)) == (MachineState.STOPPED, [*MADE, Phase.STOPPED])
    assert await provider.create(wanted, ignore) == spent

    await world.end(witness.instance_id)
    assert await ends.next() == witness.instance_id  # and not the first one again
    await provider.close()
    later = Ends()
    again = await world.open(later)
    assert await state_of(again, wanted.instance_id) == spent
    await again.delete(wanted.instance_id)
    await again.delete(witness.instance_id)
    assert await again.inventory() == []
    assert later.told.empty()


@pytest.mark.needs(Offers.EVENTS)
async def test_a_machine_that_is_deleted_is_not_told_as_ended(world: Adapter) -> None:
    ends = Ends()
    provider = await world.open(ends)
    deleted, witness = world.spec(), world.spec()
    await provider.create(witness, ignore)
    await provider.create(deleted, ignore)
    await provider.delete(deleted.instance_id)
    await world.end(witness.instance_id)
    assert await ends.next() == witness.instance_id
    assert ends.told.empty()


@pytest.mark.needs(Offers.EVENTS)
async def test_what_ends_while_nobody_looks_is_seen_by_the_next_provider(world: Adapter) -> None:
    provider = await world.open()
    running, ending = world.spec(), world.spec()
    machine = await provider.create(running, ignore)
    await provider.create(ending, ignore)
    await provider.close()
    await world.end(ending.instance_id)
    ends = Ends()
    again = await world.open(ends)
    assert await state_of(again, running.instance_id) == machine
    while (await state_of(again, ending.instance_id)).state is not MachineState.STOPPED:
        await ends.next()  # the hypervisor itself noticed only now
    await world.end(running.instance_id)
    while await ends.next() != running.instance_id:
        pass


@pytest.mark.needs(Offers.EVENTS)
async def test_what_ends_while_the_hypervisor_is_away_is_told_when_it_is_back(world: Adapter) -> None:
    ends = Ends()
    provider = await world.open(ends)
    kept, ending = world.spec(), world.spec()
    machine = await provider.create(kept, ignore)
    await provider.create(ending, ignore)
    async with world.down():
        await world.end(ending.instance_id)
    assert await ends.next() == ending.instance_id
    assert await state_of(provider, kept.instance_id) == machine
    assert (await state_of(provider, ending.instance_id)).state is MachineState.STOPPED
    await world.end(kept.instance_id)
    assert await ends.next() == kept.instance_id
    assert ends.told.empty()


@pytest.mark.needs(Offers.CONSOLE)
async def test_of_a_console_the_end_is_given_also_when_the_machine_has_ended(world: Adapter) -> None:
    ends = Ends()
    provider = await world.open(ends)
    wanted = world.spec()
    assert await provider.console(wanted.instance_id, 100) == (b"", False)
    await provider.create(wanted, ignore)
    async with asyncio.timeout(60):
        while world.console_text not in (await provider.console(wanted.instance_id, 10_000))[0]:
            await asyncio.sleep(0.05)
    await world.end(wanted.instance_id)
    await ends.next()
    whole, cut = await provider.console(wanted.instance_id, 10_000)
    assert (whole.endswith(world.console_text), cut) == (True, False)
    assert await provider.console(wanted.instance_id, 7) == (whole[-7:], True)
    await provider.delete(wanted.instance_id)
    assert await provider.console(wanted.instance_id, 100) == (b"", False)


@pytest.mark.needs(Offers.UNDOES)
async def test_a_cancelled_create_leaves_nothing(world: Adapter) -> None:
    provider = await world.open()
    before = world.traces()
    accepted = asyncio.Event()
    creating = asyncio.create_task(provider.create(world.spec(), lambda _: accepted.set()))
    await accepted.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert world.traces() == before
    assert await provider.inventory() == []


@pytest.mark.needs(Offers.UNDOES)
async def test_cancelling_a_repeated_create_keeps_the_machine(world: Adapter) -> None:
    provider = await world.open()
    wanted = world.spec()
    machine = await provider.create(wanted, ignore)
    repeated = asyncio.create_task(provider.create(wanted, ignore))
    await asyncio.sleep(0)
    repeated.cancel()
    with pytest.raises(asyncio.CancelledError):
        await repeated
    assert await provider.inventory() == [machine]


async def until_back(provider: Provider) -> None:
    """A provider that lost its hypervisor comes back by itself."""
    async with asyncio.timeout(60):
        while True:
            try:
                await provider.inventory()
            except ProviderError:
                await asyncio.sleep(0.05)
            else:
                return
