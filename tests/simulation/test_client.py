"""The client `hostler` against the real coordinator."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.simulation.farm import REPOSITORY, Farm, farm


async def start(one: Farm, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from hostler.cli.main import main; main()",
        *arguments,
        "--coordinator",
        f"127.0.0.1:{one.grpc_port}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def hostler(one: Farm, *arguments: str) -> str:
    process = await start(one, *arguments)
    said, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    return said.decode()


async def told(one: Farm, *arguments: str) -> Any:
    return json.loads(await hostler(one, *arguments, "--json"))


async def test_fleet_status_shows_hosts_capacity_and_instances(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent(vcpus_for_each=2.0)
        one.guests.may_end.clear()
        job = one.queue()
        active = await one.until_instance(lambda instance: instance.runner_status == "active")
        fleet = await told(one, "fleet", "status")
        (host,) = fleet["hosts"]
        capacity = (await one.status()).hosts[0].capacity
        assert (host["name"], host["connected"]) == ("host-1", True)
        assert host["capacity"]["vcpus"] == capacity.vcpus
        assert host["used"]["vcpus"] == 1
        assert [instance["name"] for instance in fleet["instances"]] == [active.name]
        table = await hostler(one, "fleet", "status")
        assert "host-1" in table
        assert active.name in table
        one.guests.may_end.set()
        await one.completed(job)
        await one.assert_nothing_left()
        assert (await told(one, "fleet", "status"))["instances"] == []


async def test_jobs_are_listed_with_why_they_wait(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        job = one.queue(["self-hosted", "gpu"])
        await one.until_waiting(job, "no pool of its repository has all its labels")
        (listed,) = (await told(one, "job", "list"))["jobs"]
        assert (str(listed["forge_job_id"]), listed["entity"]) == (str(job.id), REPOSITORY)
        assert "gpu" in listed["waiting_reason"]
        assert "no pool of its repository has all its labels" in await hostler(one, "job", "list")
        one.forge.cancel_job(job.id)
        await one.forge.webhooks.settle()
        assert (await told(one, "job", "list"))["jobs"] == []
        assert len((await told(one, "job", "list", "--all"))["jobs"]) == 1
        await one.assert_nothing_left()


async def test_job_show_tells_a_jobs_whole_way(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        job = one.queue()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        shown = await told(one, "job", "show", str(job.id))
        steps = [entry["step"] for entry in shown["timeline"]]
        assert shown["runner_name"] == done.runner_name
        assert steps[0] == "webhook"
        assert steps[-1] == "destroyed"
        assert str(done.runner_name) in await hostler(one, "job", "show", str(job.id))
        console = await hostler(one, "instance", "console", str(done.runner_name))
        assert console == f"{done.runner_name}: started\n"


async def test_watch_tells_each_step_as_it_is_committed(tmp_path: Path) -> None:
    async with farm(tmp_path) as one:
        await one.declare()
        await one.start_agent()
        watching = await start(one, "watch", "--json")
        assert watching.stdout is not None
        line = asyncio.create_task(watching.stdout.readline())
        jobs = []
        while not line.done():  # entries of before the watch began are not told
            jobs.append(one.queue())
            await one.completed(jobs[-1])
            await asyncio.wait({line}, timeout=0.2)
        seen = [json.loads(line.result())["step"]]
        while seen[-1] != "destroyed":
            async with asyncio.timeout(20):
                seen.append(json.loads(await watching.stdout.readline())["step"])
        assert set(seen) >= {"destroyed"}
        await one.assert_nothing_left()
        await one.stop("coordinator")
        _, errors = await watching.communicate()
        assert watching.returncode == 3
        assert b"the coordinator ended the watch" in errors or b"hostler:" in errors
        await one.start_coordinator()
        await one.assert_nothing_left()
