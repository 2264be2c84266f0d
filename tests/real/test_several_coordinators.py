"""Two coordinators on one PostgreSQL: either takes webhooks and holds agents, one plans, and any of them may die."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import enrol
from agent.config import HostSection
from agent.with_simulated import SimulatedConfig
from protos.hostler.v1.access_pb2 import InviteHostRequest, RevokeHostRequest
from protos.hostler.v1.admin_pb2 import DrainHostRequest, GetHostRequest, UncordonHostRequest
from tests.forge_simulator.faults import RestFault
from tests.real.pair import Pair, pair
from tests.real.postgres import Postgres
from tests.simulation.farm import QUICK, farm, pool
from tests.simulation.processes import start_coordinator

pytestmark = pytest.mark.real

AT_ONCE_SECONDS = 1.5
AFTER_A_KILL_SECONDS = 10.0


@pytest.fixture
async def two(tmp_path: Path, postgres_server: Postgres) -> AsyncIterator[Pair]:
    async with pair(tmp_path, postgres_server.empty()) as started:
        yield started


async def test_jobs_are_served_by_a_host_that_is_not_at_the_coordinator_that_plans(two: Pair) -> None:
    await two.declare()
    await two.start_agent_of(two.second)
    await two.completed(*[two.queue() for _ in range(10)])
    assert await two.term() == 1
    for side in (two.first, two.second):
        two.look_at(side)
        await two.assert_each_job_had_one_machine(10)
        assert [host.connected for host in (await two.status()).hosts] == [True]


async def test_every_coordinator_says_why_a_job_waits_and_what_was_applied_at_the_other(two: Pair) -> None:
    two.look_at(two.second)
    await two.declare()
    job = two.queue()
    for side in (two.first, two.second):
        two.look_at(side)
        await two.until_waiting(job, "no agent offers the provider")
    await two.start_agent_of(two.second)
    await two.completed(job)
    await two.take_away_the_permission()  # told to the second, while the first one has kept the token
    refused = two.queue()
    await two.until_waiting(refused, "rests until")
    await two.declare()
    await two.completed(refused)
    await two.assert_nothing_left()


async def test_a_guest_that_waits_at_one_is_answered_when_the_other_has_its_configuration(two: Pair) -> None:
    await two.declare()
    await two.start_agent_of(two.second)
    two.forge.set_faults(RestFault(operation="generate-jitconfig", delay_seconds=2.0, times=1))
    await two.completed(two.queue())
    (waited,) = two.guests.waited_seconds.values()
    assert 0.5 < waited < 6  # else it would be answered after 25 s
    await two.assert_each_job_had_one_machine(1)


async def test_a_host_is_drained_and_opened_by_way_of_either_coordinator(two: Pair) -> None:
    await two.declare(pool(more="min_idle_runners = 1"))
    await two.start_agent_of(two.second)
    await two.until_instance(lambda instance: instance.runner_status == "idle")
    two.look_at(two.second)
    async with two.admin() as admin:
        await admin.DrainHost(DrainHostRequest(name="host-1", reason="new disks"))
    two.look_at(two.first)

    async def drained() -> bool:
        async with two.admin() as admin:
            host = (await admin.GetHost(GetHostRequest(name="host-1"))).host
            return (host.admission, host.admission_reason, host.instances) == ("drained", "new disks", 0)

    await two.until_true(drained)
    async with two.admin() as admin:
        await admin.UncordonHost(UncordonHostRequest(name="host-1"))
    await two.until_instance(lambda instance: instance.runner_status == "idle")


async def test_the_planner_is_killed_and_the_other_one_plans_within_ten_seconds(two: Pair) -> None:
    await two.declare()
    await two.start_agent_of(two.second)
    two.guests.may_end.clear()
    before = [two.queue() for _ in range(10)]
    await two.until(lambda status: len(status.instances) >= 5)  # in the midst of it
    await two.kill_side(two.first)
    killed = time.monotonic()
    after = [two.queue() for _ in range(5)]
    await two.until_true(lambda: len(two.guests.booted) == 15, AFTER_A_KILL_SECONDS)
    assert time.monotonic() - killed < AFTER_A_KILL_SECONDS
    two.guests.may_end.set()
    await two.completed(*before, *after)
    assert await two.term() == 2
    await two.assert_each_job_had_one_machine(15)


async def test_a_planner_that_is_stopped_hands_over_at_once(two: Pair) -> None:
    await two.declare()
    await two.start_agent_of(two.second)
    await two.completed(two.queue())
    stopping = asyncio.create_task(two.stop_side(two.first))
    assert await two.until_term(2, AT_ONCE_SECONDS) < AT_ONCE_SECONDS
    await stopping
    began = time.monotonic()
    await two.completed(two.queue())
    assert time.monotonic() - began < 5
    await two.start_side(two.first)
    two.look_at(two.first)
    await two.completed(two.queue())
    assert await two.term() == 2
    await two.assert_each_job_had_one_machine(3)


async def test_a_planner_that_froze_commits_nothing_when_it_comes_back(two: Pair) -> None:
    await two.declare()
    await two.start_agent_of(two.second)
    await two.completed(two.queue())
    assert two.first.process is not None
    two.first.process._process.send_signal(signal.SIGSTOP)
    jobs = [two.queue() for _ in range(5)]
    await two.until_term(2, AFTER_A_KILL_SECONDS)
    await two.completed(*jobs)
    two.first.process._process.send_signal(signal.SIGCONT)
    await two.completed(*[two.queue() for _ in range(5)])
    assert await two.term() == 2
    await two.assert_each_job_had_one_machine(11)


async def test_the_holder_of_a_stream_is_killed_and_its_host_comes_back(two: Pair) -> None:
    await two.declare()
    await two.start_agent_of(two.second)
    two.guests.may_end.clear()
    running = two.queue()
    await two.until_instance(lambda instance: instance.runner_status == "active")
    await two.kill_side(two.second)
    two.look_at(two.first)
    await two.until(lambda status: not any(host.connected for host in status.hosts), AFTER_A_KILL_SECONDS)
    waiting = two.queue()
    await two.until_waiting(waiting, "not connected")
    await two.start_side(two.second)
    two.guests.may_end.set()
    await two.completed(running, waiting)
    assert await two.term() == 1
    await two.assert_each_job_had_one_machine(2)


async def test_of_two_agents_of_one_name_at_two_coordinators_the_newer_is_served(two: Pair) -> None:
    two.look_at(two.first)
    await two.declare()
    older = await two.start_agent("host-1")
    await two.completed(two.queue())
    two.look_at(two.second)
    newer = await two.start_agent("host-1", key="twin")
    seen = older.inventories
    await two.until_true(lambda: older.inventories > seen + 5)  # it tries again and again
    await two.completed(two.queue(), two.queue())
    assert (len(older.create_calls), len(newer.create_calls)) == (1, 2)
    await two.assert_nothing_left()
    await two.stop("twin")
    await two.until_host_connected()
    await two.completed(two.queue())
    assert (len(older.create_calls), len(newer.create_calls)) == (2, 2)
    await two.assert_nothing_left()


async def test_a_restart_of_the_database_is_survived(two: Pair, postgres_server: Postgres) -> None:
    await two.declare()
    await two.start_agent_of(two.second)
    two.guests.may_end.clear()
    before = [two.queue() for _ in range(3)]
    await two.until(lambda status: [i.runner_status for i in status.instances] == ["active"] * 3)
    await asyncio.to_thread(postgres_server.stop, signal.SIGQUIT)  # as by a crash
    await asyncio.to_thread(postgres_server.start)
    two.guests.may_end.set()
    await two.until_true(two.answers)
    after = [two.queue() for _ in range(3)]
    await two.completed(*before, *after)
    await two.assert_each_job_had_one_machine(6)


async def test_sqlite_refuses_a_second_coordinator(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        (tmp_path / "other").mkdir()
        second = await start_coordinator(tmp_path / "other", one.config)
        assert await second._process.wait() == 1
        assert "another coordinator uses this SQLite database" in second.errors()
        assert "need PostgreSQL" in second.errors()
        assert "Traceback" not in second.errors()


async def test_a_host_that_is_revoked_at_one_is_cut_off_at_the_other_at_once(two: Pair) -> None:
    two.look_at(two.first)
    async with two.access() as access:
        invited = await access.InviteHost(InviteHostRequest(host="host-1"))
    config = SimulatedConfig(data_dir=str(two.directory / "host-1"), host=HostSection("host-1"), simulated=QUICK)
    await enrol.enrol(config, invited.clients_address, invited.token, invited.ca_pin)
    await two.declare()
    await two.start_agent_of(two.second, enrolled=True)  # the CA is one for both
    await two.completed(two.queue())
    two.look_at(two.first)
    async with two.access() as access:
        began = time.monotonic()
        await access.RevokeHost(RevokeHostRequest(host="host-1"))
    await two.until(lambda status: not status.hosts[0].connected, seconds=AT_ONCE_SECONDS)
    assert time.monotonic() - began < AT_ONCE_SECONDS
    await two.until_true(lambda: "the host 'host-1' was revoked" in two._processes["host-1"].errors())
    two.look_at(two.second)
    async with two.access() as access:  # and may be invited again, anywhere
        invited = await access.InviteHost(InviteHostRequest(host="host-1"))
    await enrol.enrol(config, invited.clients_address, invited.token, invited.ca_pin)
    await two.until_host_connected()
    await two.completed(two.queue())
    await two.assert_nothing_left()
