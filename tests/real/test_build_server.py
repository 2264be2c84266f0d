"""A build server in a virtual machine: systemd, KVM, libvirt and LXD's virtual machines, and an agent installed there.

The tests share the server and come one after the other: what the first sets up, the others use.
"""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.real.server_world import AGENT, LXD_GUEST, LXD_LABELS, ServerWorld, open_server_world

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1200)]

PROOF: Final = "uname -n; grep -c -w svm /proc/cpuinfo; cat /sys/class/dmi/id/product_name"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(test_guest: Path) -> AsyncIterator[ServerWorld]:  # noqa: ARG001 (pytest's way to order fixtures)
    with tempfile.TemporaryDirectory(prefix="hostler-server-", dir="/var/tmp") as folder:
        async with open_server_world(Path(folder)) as one:
            await one.install()
            yield one


async def test_an_invited_server_proves_kvm_and_offers_libvirt(world: ServerWorld) -> None:
    assert "enrolled as 'build-server'" in await world.enrol()
    await world.start_service()
    drivers = await world.drivers("libvirt")
    assert drivers["libvirt"]["acceleration"] == "kvm"


async def test_it_offers_lxd_when_what_it_says_is_missing_has_been_done(world: ServerWorld) -> None:
    assert "br_netfilter" in await world.missing("lxd")
    await world.load_bridge_filter()
    drivers = await world.drivers("libvirt", "lxd")
    assert drivers["lxd"]["acceleration"] == "kvm"


async def test_a_job_runs_in_a_kvm_machine_of_libvirt_that_can_run_machines_itself(world: ServerWorld) -> None:
    job = await world.queue(PROOF)
    log = await world.succeeded(job)
    name, with_svm, _ = log.split(maxsplit=2)
    assert name.startswith("hostler-")
    assert int(with_svm) == 1


async def test_a_job_runs_in_a_virtual_machine_of_lxd(world: ServerWorld) -> None:
    job = await world.queue(PROOF, LXD_LABELS)
    log = await world.succeeded(job)
    name, with_svm, _ = log.split(maxsplit=2)
    assert name.startswith("hostler-")
    assert int(with_svm) == 1


async def test_machines_outlive_their_agent_and_its_hypervisors_and_their_jobs_end_well(world: ServerWorld) -> None:
    jobs = {"one": await world.queue_waiting("one"), "other": await world.queue_waiting("other", LXD_LABELS)}
    known = await world.busy(2)
    running = await world.machines()
    assert len(running) == 2
    assert all("-sandbox on" in command for command in running.values())
    assert 0 not in await world.users(running)

    await world.kill_service(AGENT)
    await world.presence("connected")
    assert await world.adopted() == known.keys()
    for hypervisor in ("libvirtd", "lxd"):
        await world.kill_service(hypervisor)
        await world.drivers("libvirt", "lxd")

    assert await world.machines() == running
    assert await world.known() == known
    for name in jobs:
        world.gate.open(name)
    for job in jobs.values():
        assert "gate says go" in await world.ended_well(job)
    await world.gone()


async def test_a_server_that_loses_its_power_is_lost_and_its_waiting_jobs_get_new_machines(world: ServerWorld) -> None:
    cut_off = await world.queue_waiting("never")
    waiting = await world.queue("uname -n", LXD_LABELS)
    made = await world.made_of(LXD_GUEST.driver)

    await world.server.kill()
    await world.presence("lost")
    await world.server.start()
    await world.presence("connected")
    new = await world.queue("echo served")

    ran_on = await world.ended_well(waiting)
    assert "hostler-" in ran_on
    assert made not in ran_on
    assert (await world.ended(cut_off))["conclusion"] != "success"
    assert "served" in await world.ended_well(new)
    world.gate.open("never")
    await world.gone()
