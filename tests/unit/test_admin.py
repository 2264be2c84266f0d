"""What the admin service answers where a question has no answer, or more than one."""

from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock

import grpc
import pytest

from coordinator.admin import AdminService
from coordinator.admin_hosts import HostAdmin
from coordinator.domain.job import JobStatus
from coordinator.domain.world import Policy
from coordinator.fleet.links import Links
from protos.hostler.v1 import admin_pb2 as pb
from tests.samples.store import TWIN, Sample, open_sample


class Aborted(Exception):
    pass


@pytest.fixture
async def sample(tmp_path: Path) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path) as opened:
        yield opened


async def _job(sample: Sample, name: str) -> pb.Job:
    engine = MagicMock(consider=AsyncMock(), waiting_reason=MagicMock(return_value=""))
    hosts = HostAdmin(sample.store, Links(), Policy(), AsyncMock())
    service = AdminService(sample.store, hosts, MagicMock(), engine, MagicMock(), MagicMock())
    context = MagicMock(abort=AsyncMock(side_effect=Aborted))
    try:
        return await service.GetJob(pb.GetJobRequest(id=name), context)
    except Aborted:
        code, reason = context.abort.await_args.args
        raise Aborted(code, reason) from None


async def test_a_job_is_found_by_either_id_and_by_the_forges_as_its_newest_attempt(sample: Sample) -> None:
    job = await sample.queue(77)
    assert (await _job(sample, "77")).id == (await _job(sample, job.id)).id == job.id
    with pytest.raises(Aborted, match="there is no job '78'") as refused:
        await _job(sample, "78")
    assert refused.value.args[0] is grpc.StatusCode.NOT_FOUND


async def test_where_two_repositories_speak_of_one_job_the_answer_names_both(sample: Sample) -> None:
    await sample.apply(TWIN)
    mine = await sample.queue(77)
    entity = await sample.entity_of("evil")
    theirs = await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 77, entity_id=entity))
    with pytest.raises(Aborted) as refused:
        await _job(sample, "77")
    code, reason = refused.value.args
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"{mine.id} of Octo/Widgets" in reason
    assert f"{theirs.id} of evil/twin" in reason
    assert (await _job(sample, mine.id)).entity == "Octo/Widgets"
