"""Two agents in network namespaces of their own, enrolled and connected by mutual TLS over links that are cut, delayed
and lossy: machines run on, and what happened meanwhile is told afterwards, in order."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from coordinator.config import Grpc
from protos.hostler.v1 import admin_pb2
from tests.real.bad_link import BadLink, bad_links
from tests.simulation.enrolled import EnrolledFarm
from tests.simulation.hosts import ProcessHost
from tests.simulation.processes import start_agent

pytestmark = pytest.mark.real

PHASES = ["accepted", "disk", "started"]


class FarFarm(EnrolledFarm):
    """Its hosts are beyond links; the coordinator listens where those end."""

    def __init__(self, directory: Path, links: list[BadLink]) -> None:
        super().__init__(directory)
        self.links = links
        secured = Grpc(
            bind=f"127.0.0.1:{self.grpc_port}",
            agents_bind=f"0.0.0.0:{self.agents_port}",
            clients_bind=f"0.0.0.0:{self.clients_port}",
            public_names=(*(link.here for link in links), "127.0.0.1"),
        )
        self.config = msgspec.structs.replace(self.config, grpc=secured)

    async def start_far_agent(self, link: BadLink, host: str, *, slow_seconds: float = 0.0) -> None:
        """Enrolled by the printed line, and started, both in the link's namespace."""
        invited = await self.invite(host)
        address = f"{link.here}:{self.agents_port}"
        config = self.directory / f"{host}.toml"
        config.write_text(f'data_dir = "{self.directory / host}"\n[host]\nname = "{host}"\n[simulated]\n')
        line = ["enrol", "--coordinator", f"{link.here}:{self.clients_port}", "--token", invited.token]
        enrolling = await asyncio.create_subprocess_exec(
            *link.within, sys.executable, "-m", "agent.main", *line, "--ca-pin", invited.ca_pin, "--config", str(config)
        )
        assert await enrolling.wait() == 0
        self._processes[host] = await start_agent(
            self.directory, host, address, within=link.within, slow_seconds=slow_seconds
        )
        self.hosts[host] = ProcessHost(self.directory / host / "instances", self.guests, self.config, self.now)
        self._watches.append(asyncio.create_task(self.hosts[host].watch()))
        await self.until_host_connected(host)

    async def steps(self, job: int, *wanted: str) -> list[admin_pb2.TimelineEntry]:
        return [entry for entry in (await self.job(job)).timeline if entry.step in wanted]


@asynccontextmanager
async def far_farm(directory: Path) -> AsyncIterator[FarFarm]:
    with bad_links(2) as links:
        one = FarFarm(directory, links)
        try:
            await one.start()
            await one.start_coordinator_process()
            await one.declare()
            yield one
        finally:
            await one.close()


async def test_jobs_run_over_links_that_delay_and_lose(tmp_path: Path) -> None:
    async with far_farm(tmp_path) as one:
        for link in one.links:
            link.delay_seconds, link.loss = (0.02, 0.15), 0.05
        for number, link in enumerate(one.links, start=1):
            await one.start_far_agent(link, f"host-{number}")
        await one.completed(*[one.queue() for _ in range(12)])
        # How many packets these take, and which of two hosts, is the kernel's and the planner's affair.
        while not all(link.lost > 5 and link.carried > 100 for link in one.links):
            await one.completed(*[one.queue() for _ in range(4)])
        await one.assert_nothing_left()


async def test_machines_live_through_a_cut_and_what_happened_is_told_afterwards_in_order(tmp_path: Path) -> None:
    async with far_farm(tmp_path) as one:
        for number, link in enumerate(one.links, start=1):
            await one.start_far_agent(link, f"host-{number}", slow_seconds=2.0)
        one.guests.may_end.clear()
        jobs = [one.queue() for _ in range(4)]
        await one.until(lambda status: [i.status for i in status.instances].count("creating") == 4)
        for link in one.links:
            link.cut()
        cut_at = datetime.now(UTC)
        await one.until_true(lambda: sum(len(host.machines()) for host in one.hosts.values()) == 4)
        await one.until(lambda status: not any(host.connected for host in status.hosts), seconds=20)
        for job in jobs:
            assert not await one.steps(job.id, "started")
        assert sum(len(host.machines()) for host in one.hosts.values()) == 4
        plugged_at = datetime.now(UTC)
        for link in one.links:
            link.plug()
        await one.until(lambda status: all(host.connected for host in status.hosts), seconds=60)
        await one.until(lambda status: [i.runner_status for i in status.instances].count("active") == 4)
        one.guests.may_end.set()
        await one.completed(*jobs)
        await one.assert_nothing_left()
        for job in jobs:
            told = await one.steps(job.id, *PHASES)
            assert [entry.step for entry in told] == PHASES
            (started,) = (entry.at.ToDatetime(tzinfo=UTC) for entry in told if entry.step == "started")
            assert cut_at < started < plugged_at
        assert len(one.guests.booted) == 4
