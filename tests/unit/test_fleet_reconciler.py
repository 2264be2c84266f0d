"""What a coordinator does about an inventory that differs from its database."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from coordinator.domain.changes import Phase, Step
from coordinator.domain.instance import RunnerStatus, Status
from coordinator.fleet.links import Link
from coordinator.fleet.reconciler import Reconciler
from coordinator.fleet.strays import Strays
from coordinator.store import timelines
from coordinator.store.instances import PhaseFact
from protos.hostler.v1 import fleet_pb2 as pb
from tests.samples.store import Sample, open_sample


@pytest.fixture
async def sample(tmp_path: Path) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("started", [True, False])
async def test_a_machine_seen_stopped_has_stopped_though_no_event_says_so(sample: Sample, started: bool) -> None:
    machine = await sample.instance()
    if started:
        await sample.store.instances.record_phase(
            PhaseFact(machine.host, machine.id, Phase.STARTED, sample.store.now())
        )
    seen = pb.Machine(
        instance_id=machine.id, generation=machine.generation, name=machine.name, state=pb.MACHINE_STATE_STOPPED
    )
    link = Link(machine.host, 1, "agent", sample.store.now())
    strays = Strays(sample.store, AsyncMock(), timedelta(0))
    reconciler = Reconciler(sample.store, lambda _: None, strays)
    await reconciler.compare(link, pb.Inventory(machines=[seen]))
    ended = await sample.now(machine)
    assert (ended.status, ended.runner_status) == (Status.PENDING_DELETE, RunnerStatus.TERMINATED)
    job = await sample.store.history.job("1")
    assert job is not None
    assert job.tries == 1  # its demand is free again
    async with sample.store._database.read() as connection:
        told = await timelines.of(connection, "", machine.id)
    assert Step.STOPPED in [entry.step for entry in told]
