"""Hosts with several drivers, of which one may be out: its machines are kept, and the others' jobs go on."""

from pathlib import Path

from protos.hostler.v1 import admin_pb2 as pb
from tests.simulation.farm import Farm, farm, pool
from tests.simulation.test_host_life import show

MACHINES = pool("machines", provider="left", labels=["machine"])
CONTAINERS = pool("containers", provider="right", labels=["container"])


async def until_out(one: Farm, *names: str) -> pb.Host:
    found = pb.Host()

    async def so() -> bool:
        nonlocal found
        found = (await show(one)).host
        return found.connected and [out.name for out in found.drivers_out] == list(names)

    await one.until_true(so)
    return found


async def test_jobs_of_both_drivers_run_on_one_host_and_share_its_room(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare(MACHINES, CONTAINERS)
        left, right = await one.start_agent_with("left", "right", vcpus=4)
        one.guests.may_end.clear()
        jobs = [one.queue(["machine"]), one.queue(["container"]), one.queue(["machine"]), one.queue(["container"])]
        await one.until(lambda s: [i.runner_status for i in s.instances].count("active") == 4)
        host = (await show(one)).host
        assert [driver.name for driver in host.drivers] == ["left", "right"]
        assert (host.capacity.vcpus, host.used.vcpus) == (4, 4)
        more = one.queue(["container"])  # the room is the host's, whatever has taken it
        assert "host host-1 is full" in await one.until_waiting(more, "is full")
        one.guests.may_end.set()
        await one.completed(*jobs, more)
        await one.assert_nothing_left()
        assert (len(left.create_calls), len(right.create_calls)) == (2, 3)


async def test_a_driver_that_is_out_is_told_not_used_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare(MACHINES, CONTAINERS)
        left, right = await one.start_agent_with("left", "right")
        one.guests.may_end.clear()
        kept = one.queue(["container"])
        before = await one.until_instance(lambda i: i.runner_status == "active")
        right.go_away("LXD is away")
        host = await until_out(one, "right")
        assert [driver.name for driver in host.drivers] == ["left"]
        assert host.drivers_out[0].detail == "LXD is away"
        waiting, other = one.queue(["container"]), one.queue(["machine"])
        reason = await one.until_waiting(waiting, "cannot use right now")
        assert "host host-1 cannot use right now: LXD is away" in reason
        await one.until(lambda s: [i.runner_status for i in s.instances].count("active") == 2)
        assert len(left.create_calls) == 1
        right.come_back()
        await until_out(one)
        one.guests.may_end.set()
        done = await one.completed(kept, waiting, other)
        await one.assert_nothing_left()
        assert done[0].runner_name == before.name  # its machine was never taken for lost
        assert len(right.create_calls) == 2


async def test_an_agent_that_begins_without_a_driver_keeps_that_drivers_machines(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare(MACHINES, CONTAINERS)
        _, right = await one.start_agent_with("left", "right")
        one.guests.may_end.clear()
        jobs = [one.queue(["machine"]), one.queue(["container"])]
        status = await one.until(lambda s: [i.runner_status for i in s.instances].count("active") == 2)
        names = {instance.name for instance in status.instances}
        await one.stop("host-1")
        right.go_away("LXD is away")
        _, right = await one.start_agent_with("left", "right")
        await until_out(one, "right")
        status = await one.status()
        assert {i.name for i in status.instances if i.runner_status == "active"} == names
        right.come_back()
        await until_out(one)
        one.guests.may_end.set()
        assert {job.runner_name for job in await one.completed(*jobs)} == names
        await one.assert_nothing_left()


async def test_a_create_that_meets_a_driver_that_is_out_is_nobodys_failure(tmp_path: Path) -> None:
    """The command was on its way before the agent could say a word: neither host nor pool rests for it."""
    async with farm(tmp_path) as one:
        await one.declare(MACHINES, CONTAINERS)
        left, right = await one.start_agent_with("left", "right")
        right.away = "LXD is away"  # and nobody has noticed
        job = one.queue(["container"])
        await until_out(one, "right")
        await one.completed(one.queue(["machine"]))
        assert len(left.create_calls) == 1
        right.come_back()
        await one.completed(job)
        await one.assert_nothing_left()
        async with one.admin() as admin:
            explained = await admin.GetHost(pb.GetHostRequest(name="host-1"))
        assert not explained.strays
