"""Cloud pools: instances made and destroyed by a provider executable, through all its failures."""

import asyncio
import subprocess
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from coordinator.domain.circuit import PATIENCE
from protos.hostler.v1 import admin_pb2
from tests.simulation.farm import FILE_CLOUD, REPOSITORY, Farm, farm, pool

ON_CLOUD = pool("clouds", provider="cloud")
both_ways = pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])


def failing(one: Farm, command: str, times: int) -> None:
    """From now on the executable fails so often at one command."""
    left = one.directory / "left"
    left.write_text("x" * times)
    one.executable(
        f"""#!/bin/sh
if [ "$GARM_COMMAND" = {command} ] && [ -s {left} ]; then
  truncate -s -1 {left}
  echo "$GARM_COMMAND" "$GARM_INSTANCE_ID" failed >> {one.cloud.directory}/calls.log
  echo "the cloud is having a day off" >&2
  exit 1
fi
exec {FILE_CLOUD}
"""
    )


def waiting(one: Farm, command: str) -> Path:
    """From now on the executable waits at one command until the returned file is there."""
    go = one.directory / "go"
    one.executable(
        f"""#!/bin/sh
if [ "$GARM_COMMAND" = {command} ]; then
  echo "$GARM_COMMAND" begun >> {one.cloud.directory}/calls.log
  while [ ! -e {go} ]; do sleep 0.05; done
fi
exec {FILE_CLOUD}
"""
    )
    return go


async def test_a_job_runs_on_a_cloud_instance_which_is_gone_afterwards(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one:
        await one.declare(ON_CLOUD)
        job = one.queue()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert [boot.name for boot in one.guests.booted] == [done.runner_name]
        assert len(one.cloud.calls("CreateInstance")) == len(one.cloud.calls("DeleteInstance")) == 1
        steps = {entry.step for entry in (await one.job(job.id)).timeline}
        assert {"planned", "dispatched", "started", "booted", "runner online", "destroyed"} <= steps


async def test_a_cloud_that_fails_to_create_is_tried_again_after_a_rest(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one:
        await one.declare(ON_CLOUD)
        failing(one, "CreateInstance", 2)
        job = one.queue()
        await one.until_waiting(job, "after 2 failures")
        await one.completed(job)
        await one.assert_nothing_left()
        assert len(one.guests.booted) == 1


async def test_a_cloud_that_fails_to_delete_twice_is_asked_until_it_has_done_it(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one:
        await one.declare(ON_CLOUD)
        failing(one, "DeleteInstance", 2)
        job = one.queue()
        await one.completed(job)
        faulty = await one.until_instance(lambda instance: instance.fault)
        assert "the cloud is having a day off" in faulty.fault
        await one.assert_nothing_left()
        assert len(one.cloud.calls("DeleteInstance")) == 3


async def test_a_host_takes_over_when_the_cloud_fails(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one:
        await one.declare(pool("clouds", provider="cloud", more="priority = 10"), pool())
        provider = await one.start_agent()
        failing(one, "CreateInstance", 1000)
        await one.completed(*[one.queue() for _ in range(3)])
        await one.assert_nothing_left()
        assert len({spec.name for spec in provider.create_calls}) == 3


@both_ways
async def test_a_restart_while_the_cloud_creates_makes_no_second_instance(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, cloud="cloud", coordinated=False) as one:
        await (one.start_coordinator_process() if killed else one.start_coordinator())
        await one.declare(ON_CLOUD)
        go = waiting(one, "CreateInstance")
        job = one.queue()
        await one.until_true(lambda: one.cloud.calls("CreateInstance begun"))
        await (one.kill("coordinator") if killed else one.stop("coordinator"))
        go.touch()
        await (one.start_coordinator_process() if killed else one.start_coordinator())
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert {boot.name for boot in one.guests.booted} == {done.runner_name}
        assert len(one.guests.booted) == 1


@both_ways
async def test_a_restart_after_the_cloud_has_created_adopts_the_instance(tmp_path: Path, killed: bool) -> None:
    async with farm(tmp_path, cloud="cloud", coordinated=False) as one:
        await (one.start_coordinator_process() if killed else one.start_coordinator())
        await one.declare(ON_CLOUD)
        # The instance is made, and its answer comes only when nobody listens any more.
        one.executable(
            f"""#!/bin/sh
{FILE_CLOUD}
code=$?
[ "$GARM_COMMAND" = CreateInstance ] && [ ! -e {tmp_path}/once ] && touch {tmp_path}/once && sleep 600
exit $code
"""
        )
        one.guests.may_boot.clear()
        job = one.queue()
        await one.until_true(one.cloud.machines)
        await (one.kill("coordinator") if killed else one.stop("coordinator"))
        one.executable(FILE_CLOUD.read_text())
        await (one.start_coordinator_process() if killed else one.start_coordinator())
        one.guests.may_boot.set()
        (done,) = await one.completed(job)
        await one.assert_nothing_left()
        assert [boot.name for boot in one.guests.booted] == [done.runner_name]
        assert len(one.cloud.calls("CreateInstance")) == 1


async def test_an_instance_given_up_while_the_cloud_still_creates_it_is_deleted_all_the_same(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one:
        await one.declare(pool("clouds", provider="cloud", more="bootstrap_timeout_minutes = 5"))
        go = waiting(one, "CreateInstance")
        job = one.queue()
        await one.until_true(lambda: one.cloud.calls("CreateInstance begun"))
        one.forge.cancel_job(job.id)
        await one.forge.webhooks.settle()
        await one.advance(timedelta(minutes=6))
        await one.until_instance(lambda instance: instance.status == "pending_delete")
        await one.forge.wait_until(lambda: not one.forge.runners(REPOSITORY))
        go.touch()
        await one.until_true(lambda: one.cloud.calls("CreateInstance "))
        await one.assert_nothing_left()
        assert len(one.guests.booted) <= 1
        assert len(one.cloud.calls("DeleteInstance")) == 1


async def test_a_provider_that_is_taken_out_of_the_configuration_is_missed_and_its_machines_wait_for_it(
    tmp_path: Path,
) -> None:
    async with farm(tmp_path, cloud="cloud") as one:
        with_cloud = one.config
        await one.declare(ON_CLOUD)
        one.guests.may_end.clear()
        job = one.queue()
        await one.until_instance(lambda instance: instance.runner_status == "active")
        await one.stop("coordinator")
        one.config = msgspec.structs.replace(with_cloud, provider=[])
        await one.start_coordinator()
        one.guests.may_end.set()
        await one.completed(job)

        stranded = await one.until_instance(lambda instance: instance.fault)
        assert stranded.fault == "provider 'cloud' is not configured any more: put its [[provider]] back"
        assert stranded.status == "pending_delete"
        assert one.cloud.machines() == [stranded.name]
        another = one.queue()
        reason = await one.until_waiting(another, "no [[provider]] of that name is configured")
        assert "'cloud'" in reason

        await one.stop("coordinator")
        one.config = with_cloud
        await one.start_coordinator()
        await one.completed(another)
        await one.assert_nothing_left()


async def test_a_job_whose_machine_was_begun_by_a_provider_that_is_gone_is_free_for_others(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one:
        with_cloud = one.config
        await one.declare(ON_CLOUD)
        go = waiting(one, "CreateInstance")
        job = one.queue()
        await one.until_true(lambda: one.cloud.calls("CreateInstance"))
        await one.stop("coordinator")
        one.config = msgspec.structs.replace(with_cloud, provider=[])
        await one.start_coordinator()
        lost = await one.until_instance(lambda instance: instance.fault)
        assert lost.status == "pending_delete"
        await one.declare(ON_CLOUD, pool())
        await one.start_agent()
        await one.completed(job)

        await one.stop("coordinator")
        go.touch()
        one.config = with_cloud
        await one.start_coordinator()
        await one.assert_nothing_left()


async def test_a_machine_that_comes_after_its_create_was_given_up_is_found_and_destroyed(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud", patrol_seconds=1, coordinated=False) as one:
        (settings,) = one.config.provider
        brief = msgspec.structs.replace(settings, timeout_seconds=1)
        one.config = msgspec.structs.replace(one.config, provider=[brief])
        await one.start_coordinator()
        await one.declare(ON_CLOUD)
        # The request reaches the cloud, which is slow; the executable ignores SIGTERM and waits for it beyond its time.
        asked = tmp_path / "asked"
        one.executable(
            f"""#!/bin/bash
trap '' TERM
if [ "$GARM_COMMAND" = CreateInstance ] && [ ! -e {asked} ]; then
  cat > {asked}.new; env | grep ^GARM_ > {tmp_path}/variables; mv {asked}.new {asked}
  while :; do sleep 0.05; done
fi
exec {FILE_CLOUD}
"""
        )
        job = one.queue()
        await one.until_true(asked.exists)
        late = msgspec.json.decode(asked.read_bytes())["name"]
        # Its instance is deleted, found to be absent, and forgotten; another one does the job.
        await one.until_true(lambda: any(late in call for call in one.cloud.calls("DeleteInstance")))
        await one.until(lambda status: all(instance.name != late for instance in status.instances))
        await one.completed(job)
        one.guests.may_boot.clear()
        variables = dict(line.split("=", 1) for line in (tmp_path / "variables").read_text().splitlines())
        await asyncio.to_thread(_come_round, asked.read_bytes(), variables)
        assert late in one.cloud.machines()
        for _ in range(20):  # the second look at it is what counts
            await one.advance(timedelta(minutes=2))
            await asyncio.sleep(1)
            if late not in one.cloud.machines():
                break
        await one.assert_nothing_left()


def _come_round(bootstrap: bytes, variables: dict[str, str]) -> None:
    subprocess.run([FILE_CLOUD], input=bootstrap, env=variables, check=True, capture_output=True)


async def test_a_cloud_that_fails_at_everything_is_left_alone_and_then_tried(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one:
        await one.declare(ON_CLOUD, pool("others", provider="cloud", labels=["other"]))
        calls = tmp_path / "calls"
        one.executable(f"#!/bin/sh\necho >> {calls}\necho no route to the cloud >&2\nexit 1\n")
        jobs = [one.queue(), one.queue()]
        await one.until_true(lambda: calls.exists() and len(calls.read_text()) >= PATIENCE)
        late = one.queue(["other"])
        # A pool of the same cloud that has made nothing wrong itself waits as well.
        told = await one.until_waiting(late, "times in a row and is left alone until")
        assert "no route to the cloud" in told
        told_of = await _provider(one)
        assert (told_of.circuit, list(told_of.pools)) == ("open", ["clouds", "others"])
        assert "no route to the cloud" in told_of.fault
        assert len(calls.read_text()) < 2 * PATIENCE  # creates and deletes under way leave it alone as well
        one.executable(FILE_CLOUD.read_text())
        await one.advance(timedelta(minutes=6))
        await one.completed(*jobs, late)
        await one.assert_nothing_left()
        well = await _provider(one)
        assert (well.circuit, well.failures, well.fault) == ("closed", 0, "")


async def _provider(one: Farm) -> admin_pb2.Provider:
    """As `hostler provider list` has it."""
    async with one.admin() as admin:
        (only,) = (await admin.ListProviders(admin_pb2.ListProvidersRequest())).providers
    return only
