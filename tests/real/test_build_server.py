"""A build server in a virtual machine: systemd, KVM, libvirt and LXD's virtual machines, and an agent installed there.

The tests share the server and come one after the other: what the first sets up, the others use.
"""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.real.server_world import LXD_LABELS, ServerWorld, open_server_world

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1800)]

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
