"""Agents that stop, are killed, and machines that fail, hang or die on their hosts."""

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path

import grpc
import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from hostler import __version__
from protos.hostler.v1 import fleet_pb2 as pb
from protos.hostler.v1.admin_pb2 import GetConsoleRequest
from protos.hostler.v1.fleet_pb2_grpc import FleetStub
from providers.contract import MachineState
from providers.simulated import SimulatedSettings
from tests.simulation.farm import Farm, farm, pool

ORPHAN_GRACE = timedelta(seconds=1)


async def test_a_restarted_agent_adopts_its_machines_and_their_jobs_end_well(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        before = await one.start_agent()
        one.guests.may_end.clear()
        jobs = [one.queue() for _ in range(3)]
        await one.until(lambda status: [i.runner_status for i in status.instances] == ["active"] * 3)
        await one.stop("host-1")
        await one.until(lambda status: not any(host.connected for host in status.hosts))
        after = await one.start_agent()
        one.guests.may_end.set()
        await one.completed(*jobs)
        await one.assert_nothing_left()
        assert len(before.create_calls) == 3
        assert after.create_calls == []


async def test_a_killed_agent_finds_its_machines_again_and_their_job_ends_well(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        host = await one.start_agent_process()
        one.guests.may_end.clear()
        job = one.queue()
        running = await one.until_instance(lambda instance: instance.runner_status == "active")
        machines = host.machines()
        await one.kill("host-1")
        await one.until(lambda status: not any(host.connected for host in status.hosts))
        await one.start_agent_process()
        assert host.machines() == machines
        one.guests.may_end.set()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert done.runner_name == running.name
        assert [boot.name for boot in one.guests.booted] == [running.name]


async def test_a_job_that_ends_while_its_agent_is_dead_leaves_no_machine(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent_process()
        one.guests.may_end.clear()
        job = one.queue()
        await one.until_instance(lambda instance: instance.runner_status == "active")
        await one.kill("host-1")
        one.guests.may_end.set()
        await one.completed(job)
        await one.until_instance(lambda instance: instance.status in {"pending_delete", "deleting"})
        await one.start_agent_process()
        await one.assert_nothing_left()


@pytest.mark.parametrize("times", [1, 3])
async def test_a_create_that_fails_rests_the_host_and_the_job_is_served_later(tmp_path: Path, times: int) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        provider.faults.creates_failing = times
        job = one.queue()
        for failure in range(1, times + 1):
            assert "host host-1 rests until" in await one.until_waiting(job, f"after {failure} failures")
        await one.completed(job)
        await one.assert_nothing_left()
        assert len(set(one.created())) == times + 1


async def test_a_failing_host_leaves_its_jobs_to_another(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        bad, good = await one.start_agent("host-1"), await one.start_agent("host-2")
        bad.faults.creates_failing = 1000
        await one.completed(*[one.queue() for _ in range(6)])
        await one.assert_nothing_left()
        assert len({spec.name for spec in good.create_calls}) == 6


async def test_a_hung_create_is_begun_anew_when_its_agent_restarts(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        provider.faults.creates_hanging = 1
        job = one.queue()
        hanging = await one.until_instance(lambda instance: instance.status == "creating")
        await one.stop("host-1")
        await one.start_agent()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert done.runner_name == hanging.name


async def test_a_machine_that_dies_while_booting_is_replaced(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        one.guests.may_boot.clear()
        job = one.queue()
        dead = await one.until_instance(lambda instance: instance.status == "running")
        await provider.die(dead.name)
        one.guests.may_boot.set()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert len(one.created()) == 2
        assert done.runner_name != dead.name


async def test_a_machine_that_never_boots_is_replaced_after_its_bootstrap_time(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare(pool(more="bootstrap_timeout_minutes = 5"))
        await one.start_agent()
        one.guests.may_boot.clear()
        job = one.queue()
        stuck = await one.until_instance(lambda instance: instance.status == "running")
        one.guests.end(stuck.name)
        one.guests.may_boot.set()
        await one.advance(timedelta(minutes=6))
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert done.runner_name != stuck.name


async def test_a_machine_that_dies_with_its_job_is_cleared_and_the_job_runs_on_at_the_forge(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        one.guests.may_end.clear()
        job = one.queue()
        dead = await one.until_instance(lambda instance: instance.runner_status == "active")
        await provider.die(dead.name)
        await one.until(lambda status: not status.instances)
        assert (await one.job(job.id)).status == "in_progress"
        one.forge.cancel_job(job.id)  # sooner or later the forge gives it up
        await one.assert_nothing_left()
        assert (await one.job(job.id)).status == "completed"
        assert len(one.created()) == 1


async def test_a_delete_that_fails_twice_is_done_in_the_end(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        provider = await one.start_agent()
        provider.faults.deletes_failing = 2
        job = one.queue()
        await one.completed(job)
        await one.assert_nothing_left()
        assert len(provider.delete_calls) == 3
        assert "delete failed" in [entry.step for entry in (await one.job(job.id)).timeline]


async def plant(one: Farm, host: str, instance_id: str, name: str) -> None:
    """Put a machine on a host whose agent is down."""
    folder = one.directory / host / "instances"
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"instance_id": instance_id, "generation": 1, "name": name, "state": MachineState.RUNNING}
    (folder / f"{instance_id}.json").write_bytes(msgspec.json.encode({"machine": machine}))


async def test_an_orphan_is_destroyed_after_the_grace_and_not_before(tmp_path: Path) -> None:
    async with farm(tmp_path, orphan_grace=ORPHAN_GRACE) as one:
        await one.declare()
        await plant(one, "host-1", str(uuid.uuid4()), "hostler-0123456789ab")
        began = asyncio.get_running_loop().time()
        provider = await one.start_agent()
        await one.until_true(lambda: provider.delete_calls)
        assert asyncio.get_running_loop().time() - began >= ORPHAN_GRACE.total_seconds()
        await one.assert_nothing_left()
        # The stream outlives the console of a machine that nobody knows.
        await one.completed(one.queue())
        await one.assert_nothing_left()


async def test_a_machine_known_as_deleted_is_destroyed_at_once(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        job = one.queue()
        await one.completed(job)
        await one.assert_nothing_left()
        ended = await one.job(job.id)
        await one.stop("host-1")
        (tmp_path / "host-1/endings.jsonl").unlink()
        await plant(one, "host-1", ended.instance_id, ended.runner_name)
        await one.start_agent()
        await one.assert_nothing_left()


async def test_a_vanished_machine_is_replaced_if_its_job_still_waits(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_boot.clear()
        job = one.queue()
        lost = await one.until_instance(lambda instance: instance.status == "running")
        await one.stop("host-1")
        one.guests.end(lost.name)
        (tmp_path / f"host-1/instances/{lost.id}.json").unlink()
        one.guests.may_boot.set()
        await one.start_agent()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert done.runner_name != lost.name


_LAST = 99


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now


class Liar:
    """An agent of a host of its own that speaks of what is not its."""

    def __init__(self, one: Farm, host: str) -> None:
        capacity = pb.Resources(vcpus=1, memory_mib=1, disk_gib=1)
        self._hello = pb.Hello(host=host, agent_version=__version__, arch="amd64", capacity=capacity)
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{one.grpc_port}")
        self._call = FleetStub(self._channel).Session()

    async def tell(self, *messages: pb.AgentMessage) -> None:
        """Say it and wait until the coordinator has taken it in."""
        await self._call.write(pb.AgentMessage(hello=self._hello))
        for message in [*messages, pb.AgentMessage(event=pb.InstanceEvent(sequence=_LAST, at=_now()))]:
            await self._call.write(message)
        while (heard := await self._call.read()) is not grpc.aio.EOF:
            if isinstance(heard, pb.CoordinatorMessage) and heard.event_ack.sequence == _LAST:
                break
        await self._channel.close()


async def test_an_agent_that_speaks_of_anothers_machine_changes_nothing(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        job = one.queue()
        victim = await one.until_instance(lambda instance: instance.runner_status == "active")
        lies = [
            pb.AgentMessage(console_log=pb.ConsoleLog(instance_id=victim.id, data=b"lies")),
            *(
                pb.AgentMessage(event=pb.InstanceEvent(sequence=n, instance_id=victim.id, phase=phase, at=_now()))
                for n, phase in enumerate((pb.PHASE_STOPPED, pb.PHASE_DELETED, pb.PHASE_FAILED), start=1)
            ),
        ]
        await Liar(one, "host-2").tell(*lies)
        assert await one.until_instance(lambda instance: instance.id == victim.id) == victim
        async with one.admin() as admin:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await admin.GetConsole(GetConsoleRequest(instance=victim.id))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        one.guests.may_end.set()
        await one.completed(job)
        await one.assert_nothing_left()
        async with one.admin() as admin:
            assert b"started" in (await admin.GetConsole(GetConsoleRequest(instance=victim.id))).data


async def test_an_inventory_of_anothers_machine_does_not_end_it(tmp_path: Path) -> None:
    async with farm(tmp_path, orphan_grace=timedelta()) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        job = one.queue()
        victim = await one.until_instance(lambda instance: instance.runner_status == "active")
        stopped = pb.Machine(instance_id=victim.id, generation=9, name=victim.name, state=pb.MACHINE_STATE_STOPPED)
        await Liar(one, "host-2").tell(pb.AgentMessage(inventory=pb.Inventory(machines=[stopped])))
        assert await one.until_instance(lambda instance: instance.id == victim.id) == victim
        one.guests.may_end.set()
        await one.completed(job)
        await one.assert_nothing_left()


async def test_creates_of_many_jobs_survive_the_end_of_their_agent(tmp_path: Path) -> None:
    slow = SimulatedSettings(disk_seconds=0.1, start_seconds=0.1)
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent(settings=slow)
        jobs = [one.queue() for _ in range(12)]
        await one.until_instance(lambda instance: instance.status == "creating")
        await one.stop("host-1")
        await one.start_agent(settings=slow)
        done = await one.completed(*jobs)
        await one.assert_nothing_left()
        assert len({job.runner_name for job in done}) == 12
        assert len({boot.name for boot in one.guests.booted}) == len(one.guests.booted) == 12
