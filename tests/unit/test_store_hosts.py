"""Hosts that connect at once share a commit, and one that leaves before its end is not taken for connected."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from coordinator.domain.resources import Resources
from coordinator.fleet.entrance import Loopback
from coordinator.fleet.links import Links
from coordinator.fleet.reconciler import ORPHAN_GRACE, Reconciler
from coordinator.fleet.service import FleetService
from coordinator.store.hosts import HostRecord
from tests.samples.domain import NOW
from tests.samples.store import Sample, open_sample

HOST = HostRecord("host-1", "amd64", Resources(4, 4096, 40), {}, "1", NOW)


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def test_of_many_that_connect_at_once_new_and_known_each_is_kept_as_it_last_said(sample: Sample) -> None:
    hosts = sample.store.hosts
    await hosts.present(HOST, 1, "")
    new = [msgspec.structs.replace(HOST, name=f"new-{number}", arch="arm64") for number in range(50)]
    older, newer = (msgspec.structs.replace(HOST, agent_version=version) for version in ("2", "3"))
    both = [(older, 2), *((host, 3 + number) for number, host in enumerate(new)), (newer, 60)]
    await asyncio.gather(*(hosts.present(host, stream, "run") for host, stream in both))
    kept = {host.name: host for host in await hosts.all()}
    assert all(kept[host.name] == msgspec.structs.replace(host, connected=True) for host in [*new, newer])
    assert (await hosts.holders([HOST.name]))[HOST.name].stream == 60


async def test_a_host_that_leaves_while_it_is_presented_is_not_taken_for_connected(sample: Sample) -> None:
    reconciler = Reconciler(sample.store, lambda _: None, ORPHAN_GRACE)
    service = FleetService(sample.store, Links(), reconciler, Loopback())
    tasks = [
        asyncio.create_task(service._present(msgspec.structs.replace(HOST, name=f"new-{number}"), number, ""))
        for number in range(20)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await sample.store.hosts.present(HOST, 99, "")  # when it is written, all before it are
    assert not [host.name for host in await sample.store.hosts.all() if host.connected and host.name.startswith("new")]
