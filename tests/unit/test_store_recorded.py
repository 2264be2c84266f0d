"""What is exported of jobs that have run."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest

from coordinator.domain.job import JobStatus
from coordinator.store import recorded as module
from coordinator.store.database import DatabaseUnusable
from coordinator.store.recorded import Recorded, recorded
from tests.samples.store import Sample, open_sample
from tests.simulation.world import trace
from tests.simulation.world.scenario import JobSpec


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def ran(sample: Sample, number: int, *, waits: float, runs: float) -> None:
    await sample.queue(number)
    sample.clock.move(seconds=waits)
    await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, number, runner_name="a-runner"))
    sample.clock.move(seconds=runs)
    await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, number, conclusion="success"))


async def exported(url: str) -> list[Recorded]:
    return [job async for job in recorded(url)]


async def test_a_job_is_told_with_when_it_came_and_how_long_it_ran(sample: Sample, database_url: str) -> None:
    await ran(sample, 1, waits=5, runs=30.25)
    await ran(sample, 2, waits=0, runs=7)
    entity = (await sample.store.catalog.entities())[0].full_name
    assert await exported(database_url) == [
        Recorded(0.0, entity, ["linux"], 30.25),
        Recorded(35.25, entity, ["linux"], 7.0),
    ]


async def test_jobs_that_never_ran_or_still_do_are_left_out(sample: Sample, database_url: str) -> None:
    await sample.queue(1)
    await sample.store.ledger.record(sample.event(JobStatus.COMPLETED, 1, conclusion="cancelled"))
    await sample.queue(2)
    await sample.store.ledger.record(sample.event(JobStatus.IN_PROGRESS, 2, runner_name="a-runner"))
    assert await exported(database_url) == []


async def test_all_are_told_once_however_many_are_read_at_a_time(sample: Sample, database_url: str) -> None:
    for number in range(1, 6):
        await ran(sample, number, waits=0, runs=number)
    for number in (6, 7):  # two of one moment
        await sample.queue(number)
    for status in (JobStatus.IN_PROGRESS, JobStatus.COMPLETED):
        for number in (6, 7):
            await sample.store.ledger.record(sample.event(status, number, runner_name=f"runner-{number}"))
    for at_once in (1, 2, 3, 7):
        with mock.patch.object(module, "_AT_ONCE", at_once):
            durations = [job.duration for job in await exported(database_url)]
        assert durations == [1, 2, 3, 4, 5, 0, 0]


async def test_the_program_prints_a_trace_that_the_simulation_reads(tmp_path: Path) -> None:
    async with open_sample(tmp_path) as sample:
        await ran(sample, 1, waits=1, runs=60)
        file = tmp_path / "coordinator.toml"
        file.write_text(f'data_dir = "{tmp_path}"\n')
        command = [sys.executable, "-m", "coordinator.main", "export-trace", "--config", str(file)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: ASYNC221
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 1
    (tmp_path / "trace.jsonl").write_text(ended.stdout)
    entity = json.loads(ended.stdout)["entity"]
    assert trace.read(tmp_path / "trace.jsonl") == (JobSpec(0.0, entity, ("linux",), 60.0),)


async def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="no such file"):
        await exported(f"sqlite:///{tmp_path}/hostler.db")
    assert not (tmp_path / "hostler.db").exists()
