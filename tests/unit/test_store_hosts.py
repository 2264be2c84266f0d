"""Hosts that connect at once share a commit, and one that leaves before its end is not taken for connected."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from coordinator.domain.resources import Resources
from coordinator.fleet import service as module
from coordinator.fleet.entrance import Loopback
from coordinator.fleet.links import Links
from coordinator.fleet.reconciler import Reconciler
from coordinator.fleet.service import FleetService
from coordinator.fleet.strays import ORPHAN_GRACE, Strays
from coordinator.store.hosts import HostRecord
from coordinator.store.rows import DriverInfo
from tests.samples.domain import NOW
from tests.samples.store import Sample, open_sample

GPUS = Resources(4, 4096, 40, (("fpga", 1), ("gpu", 2)))
HOST = HostRecord("host-1", "amd64", GPUS, {"libvirt": DriverInfo("kvm", [], passes_devices=True)}, "1", NOW)


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def test_what_devices_a_host_has_and_passes_reaches_the_planner(sample: Sample) -> None:
    await sample.store.hosts.present(HOST, 1, "")
    (host,) = (await sample.store.planning.world({})).hosts
    assert (host.capacity, host.passes) == (GPUS, frozenset({"libvirt"}))
    await sample.store.hosts.present(msgspec.structs.replace(HOST, capacity=Resources(4, 4096, 40)), 2, "")
    assert not (await sample.store.planning.world({})).hosts[0].capacity.devices


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
    strays = Strays(sample.store, AsyncMock(), ORPHAN_GRACE)
    service = FleetService(sample.store, Links(), Reconciler(sample.store, lambda _: None, strays), strays, Loopback())
    tasks = [
        asyncio.create_task(service._present(msgspec.structs.replace(HOST, name=f"new-{number}"), number, "", ""))
        for number in range(20)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await sample.store.hosts.present(HOST, 99, "")  # when it is written, all before it are
    assert not [host.name for host in await sample.store.hosts.all() if host.connected and host.name.startswith("new")]


async def test_that_a_host_has_left_is_noted_though_its_streams_task_is_cancelled_and_the_database_fails_once(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    strays = Strays(sample.store, AsyncMock(), ORPHAN_GRACE)
    service = FleetService(sample.store, Links(), Reconciler(sample.store, lambda _: None, strays), strays, Loopback())
    monkeypatch.setattr(module, "_LEAVE_AGAIN_SECONDS", (0.0, 0.0))
    real, calls = sample.store.hosts.left, 0

    async def left(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("the database is away")
        await real(*args)

    monkeypatch.setattr(sample.store.hosts, "left", left)
    stream = asyncio.create_task(service._leave("host-1", 1, NOW))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
    await asyncio.gather(*service._leaving)
    assert not (await sample.store.hosts.one("host-1")).connected
