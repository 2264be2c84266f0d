"""Hosts that are lost, drained, removed, short of something; and agents that die with many machines."""

from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from agent import host as host_of_agent
from agent import session
from agent.config import CapacitySection
from agent.host import Usage
from agent.pressure import HostUnderPressure, Low
from coordinator.fleet import strays
from protos.hostler.v1 import admin_pb2 as pb
from tests.simulation.farm import Farm, farm, pool

MACHINES = 30


async def show(one: Farm, host: str = "host-1") -> pb.GetHostResponse:
    async with one.admin() as admin:
        answer: pb.GetHostResponse = await admin.GetHost(pb.GetHostRequest(name=host))
        return answer


async def until_away(one: Farm, host: str = "host-1") -> None:
    await one.until(lambda status: not any(h.connected for h in status.hosts if h.name == host))


async def until_active(one: Farm, count: int) -> list[pb.Instance]:
    status = await one.until(lambda s: [i.runner_status for i in s.instances].count("active") == count)
    return [instance for instance in status.instances if instance.runner_status == "active"]


async def test_a_killed_agent_with_30_machines_adopts_them_all_and_an_outage_touches_none(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        host = await one.start_agent_process()
        one.guests.may_end.clear()
        jobs = [one.queue() for _ in range(MACHINES)]
        running = {(i.id, i.name, i.job_id) for i in await until_active(one, MACHINES)}
        machines = host.machines()
        assert len(machines) == MACHINES
        await one.kill("host-1")
        await until_away(one)
        assert host.machines() == machines
        await one.start_agent_process()
        assert host.machines() == machines
        assert {(i.id, i.name, i.job_id) for i in await until_active(one, MACHINES)} == running
        await one.stop("coordinator")
        assert host.machines() == machines
        await one.start_coordinator()
        await one.until_host_connected("host-1")
        assert {(i.id, i.name, i.job_id) for i in await until_active(one, MACHINES)} == running
        assert host.machines() == machines
        one.guests.may_end.set()
        done = await one.completed(*jobs)
        await one.assert_nothing_left()
        assert {job.runner_name for job in done} == {name for _, name, _ in running}
        assert len(one.guests.booted) == MACHINES  # none was started again


async def test_what_a_lost_host_was_making_is_made_elsewhere_and_what_is_busy_there_is_kept(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        lost = await one.start_agent("host-1")
        one.guests.may_end.clear()
        working = one.queue()
        (busy,) = await until_active(one, 1)
        one.guests.may_boot.clear()
        waiting = one.queue()
        coming = await one.until_instance(lambda instance: instance.status == "running" and instance.id != busy.id)
        await one.stop("host-1")
        await until_away(one)
        other = await one.start_agent("host-2")
        await one.advance(timedelta(seconds=31))
        one.guests.end(coming.name)  # it never boots
        one.guests.may_boot.set()
        await until_active(one, 2)
        await one.advance(timedelta(minutes=5))
        left = await one.until(lambda status: coming.id not in {i.id for i in status.instances})
        assert [i.name for i in left.instances if i.host == "host-1"] == [busy.name]
        assert (await show(one)).host.presence == "lost"
        again = await one.start_agent("host-1")
        await one.until_true(lambda: [record.machine.name for record in again._records.values()] == [busy.name])
        one.guests.may_end.set()
        done = await one.completed(working, waiting)
        await one.assert_nothing_left()
        assert done[0].runner_name == busy.name
        assert [spec.name for spec in other.create_calls] == [done[1].runner_name]
        assert (len(lost.create_calls), len(again.create_calls)) == (2, 0)


async def test_a_removed_host_that_comes_back_keeps_its_busy_runner_until_the_job_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays, "_ASK_AGAIN_SECONDS", 0.2)
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        job = one.queue()
        (busy,) = await until_active(one, 1)
        async with one.admin() as admin:
            with pytest.raises(grpc.aio.AioRpcError, match="is connected"):
                await admin.RemoveHost(pb.RemoveHostRequest(name="host-1", force=True))
            await one.stop("host-1")
            await until_away(one)
            with pytest.raises(grpc.aio.AioRpcError, match="has 1 instances"):
                await admin.RemoveHost(pb.RemoveHostRequest(name="host-1"))
            removed = await admin.RemoveHost(pb.RemoveHostRequest(name="host-1", force=True))
            with pytest.raises(grpc.aio.AioRpcError, match="there is no host 'host-1'") as refused:
                await admin.GetHost(pb.GetHostRequest(name="host-1"))
        assert list(removed.lost) == [busy.name]
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        again = await one.start_agent()

        async def kept() -> bool:
            return [stray.reason for stray in (await show(one)).strays] == [
                "its runner has a job; it goes when that has ended"
            ]

        await one.until_true(kept)
        assert not again.delete_calls
        one.guests.may_end.set()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert done.runner_name == busy.name


async def test_a_drained_host_lets_idle_ones_go_and_stops_busy_ones_at_its_deadline(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare(pool(more="min_idle_runners = 1"))
        await one.start_agent()
        one.guests.may_end.clear()
        job = one.queue()
        (busy,) = await until_active(one, 1)
        idle = await one.until_instance(lambda instance: instance.runner_status == "idle")
        async with one.admin() as admin:
            said = pb.DrainHostRequest(name="host-1", reason="new disks", deadline_seconds=1800)
            answer = await admin.DrainHost(said)
            assert (answer.admission, answer.admission_reason) == ("draining", "new disks")
        await one.until(lambda status: [i.id for i in status.instances] == [busy.id])
        later = one.queue()
        assert "host host-1 is draining (new disks)" in await one.until_waiting(later, "draining")
        shown = await show(one)
        assert [i.name for i in shown.instances] == [busy.name]
        await one.stop("coordinator")
        await one.start_coordinator()
        await one.until_host_connected("host-1")
        await one.advance(timedelta(minutes=29))
        assert [i.id for i in (await show(one)).instances] == [busy.id]
        await one.advance(timedelta(minutes=2))
        await one.until(lambda status: not status.instances)

        async def drained() -> bool:
            return (await show(one)).host.admission == "drained"

        await one.until_true(drained)
        one.guests.may_end.set()
        one.forge.cancel_job(job.id)  # as the forge gives up a job whose runner is gone
        await one.declare(pool(more="min_idle_runners = 0"))
        async with one.admin() as admin:
            opened = await admin.UncordonHost(pb.UncordonHostRequest(name="host-1"))
            assert (opened.admission, opened.admission_reason) == ("open", "")
        (done,) = await one.completed(later)
        await one.assert_nothing_left()
        assert done.runner_name not in (busy.name, idle.name)


async def test_a_cordoned_host_takes_nothing_new_and_finishes_what_it_has(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        one.guests.may_end.clear()
        first = one.queue()
        await until_active(one, 1)
        async with one.admin() as admin:
            await admin.CordonHost(pb.CordonHostRequest(name="host-1", reason="noise"))
            (listed,) = (await admin.ListHosts(pb.ListHostsRequest())).hosts
            assert (listed.admission, listed.admission_reason, listed.instances) == ("cordoned", "noise", 1)
        second = one.queue()
        assert "is cordoned (noise)" in await one.until_waiting(second, "cordoned")
        one.guests.may_end.set()
        await one.completed(first)
        assert len(one.created()) == 1
        async with one.admin() as admin:
            await admin.UncordonHost(pb.UncordonHostRequest(name="host-1"))
        await one.completed(second)
        await one.assert_nothing_left()


async def test_a_host_that_is_short_of_disk_says_so_and_takes_machines_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = [100]
    monkeypatch.setattr(session, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(host_of_agent, "usage", lambda _: Usage(0.5, 4096, disk[0]))
    monkeypatch.setattr(CapacitySection, "low", property(lambda _: Low(memory_mib=0, disk_gib=8)))
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        disk[0] = 7

        async def short() -> bool:
            return (await show(one)).host.pressure.code == "disk_low"

        await one.until_true(short)
        job = one.queue()
        reason = await one.until_waiting(job, "takes nothing more")
        assert "host host-1 takes nothing more: 7 GiB of disk available, 8 wanted" in reason
        disk[0] = 9  # not enough for the host to trust it
        await one.stop("host-1")
        await one.start_agent()  # a new process has no memory of what was short
        await one.completed(job)
        await one.assert_nothing_left()


async def test_a_create_that_meets_a_host_under_pressure_is_placed_elsewhere_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command was on its way before the agent could say a word."""
    async with farm(tmp_path) as one:
        await one.declare()
        short, other = await one.start_agent("host-1"), await one.start_agent("host-2")
        refusal = HostUnderPressure("this host is short: 1 GiB of disk available, 5 wanted")
        monkeypatch.setattr(one.agents["host-1"]._keeper, "_refusal", lambda: refusal)
        jobs = [one.queue() for _ in range(4)]
        await one.completed(*jobs)
        await one.assert_nothing_left()
        assert not short.create_calls
        assert len({spec.name for spec in other.create_calls}) == 4
