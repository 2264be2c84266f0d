"""Instances whose provider was taken out of the configuration: what becomes of each."""

from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import sqlalchemy as sa

from coordinator.domain.instance import RunnerStatus, Status
from coordinator.engine.circuits import Circuits
from coordinator.engine.cloud import CloudExecutor
from coordinator.runner_api import scripts
from coordinator.store.schema import instances
from coordinator.tokens import InstanceTokens
from tests.samples.store import DOCUMENT, Sample, open_sample

REASON = "provider 'cloud' is not configured any more: put its [[provider]] back"


@pytest.fixture
async def sample(tmp_path: Path) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path) as opened:
        await opened.apply(DOCUMENT.replace('provider = "libvirt"', 'provider = "cloud"'))
        await opened.look()
        yield opened


@pytest.mark.parametrize(
    ("status", "runner_status", "becomes", "fault"),
    [
        (Status.PENDING_CREATE, RunnerStatus.PENDING, Status.DELETED, ""),  # there is no machine
        (Status.CREATING, RunnerStatus.PENDING, Status.PENDING_DELETE, REASON),  # there may be one
        (Status.CREATING, RunnerStatus.INSTALLING, Status.CREATING, ""),  # there is one, and it has called
        (Status.RUNNING, RunnerStatus.ACTIVE, Status.RUNNING, ""),
        (Status.PENDING_DELETE, RunnerStatus.TERMINATED, Status.PENDING_DELETE, REASON),
        (Status.DELETING, RunnerStatus.TERMINATED, Status.DELETING, REASON),
        (Status.PENDING_FORCE_DELETE, RunnerStatus.TERMINATED, Status.DELETED, ""),
    ],
)
async def test_what_becomes_of_an_instance_without_its_provider(
    sample: Sample, status: Status, runner_status: RunnerStatus, becomes: Status, fault: str
) -> None:
    made = await sample.instance()
    async with sample.store._database.write() as connection:
        values = {"status": status, "runner_status": runner_status, "host": ""}
        await connection.execute(sa.update(instances).where(instances.c.id == made.id).values(**values))
    tokens = InstanceTokens(sample.store.instance_token_key, sample.clock)
    circuits = Circuits(sample.clock, lambda: 0.5)
    where = scripts.urls("http://c.example")
    cloud = CloudExecutor(sample.store, MagicMock(), {}, tokens, where, sample.clock, circuits)
    await cloud.miss(await sample.now(made))
    now = await sample.now(made)
    assert (now.status, now.fault) == (becomes, fault)
    if now.status is not Status.DELETED:
        await cloud.miss(now)  # said once, also when it is looked at again
        assert await sample.now(made) == now
