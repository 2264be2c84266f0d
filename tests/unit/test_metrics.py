"""Metrics: what a job's parts took, what there is, and who may read it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from coordinator.accounts.sessions import Sessions
from coordinator.config import Metrics
from coordinator.domain.changes import Phase, Step
from coordinator.domain.job import JobStatus
from coordinator.domain.timeline import Entry
from coordinator.http import app
from coordinator.metrics import observer
from coordinator.metrics.durations import Part, parts, ran, waited
from coordinator.metrics.families import Here
from coordinator.metrics.meters import Bounded, Meters
from coordinator.metrics.observer import Observer
from coordinator.metrics.page import Page
from coordinator.store.instances import PhaseFact
from coordinator.store.signing import Purpose
from coordinator.store.ways import JobWay
from tests.samples.domain import NOW
from tests.samples.store import Ids, Sample, open_sample

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
HERE = Here("1.0", "c-1", "http://m", "http://b", "http://w", "http://w/c-1", True, 3, {"no_host": 2}, {"token": 9})


def at(step: Step, seconds: float) -> Entry:
    return Entry(step, NOW + timedelta(seconds=seconds))


WAY = (
    at(Step.WEBHOOK, 0.0),
    at(Step.COMMITTED, 0.004),
    at(Step.DISPATCHED, 0.010),
    at(Step.STARTED, 0.3),
    at(Step.RUNNER_ONLINE, 10.3),
    at(Step.RUNNING, 12.0),
    at(Step.COMPLETED, 72.0),
)


def test_each_part_is_from_its_first_step_to_its_first_end() -> None:
    found = {part.value: round(seconds, 3) for part, seconds in parts([*WAY, at(Step.WEBHOOK, 12)]).items()}
    assert found == {
        "webhook_to_commit": 0.004,
        "commit_to_dispatch": 0.006,
        "dispatch_to_start": 0.29,
        "start_to_online": 10.0,
        "online_to_job": 1.7,
    }
    assert (waited(WAY), ran(WAY)) == (12.0, 60.0)


def test_a_machine_that_was_there_before_has_no_way_from_the_job() -> None:
    warm = (at(Step.DISPATCHED, -60), at(Step.STARTED, -59), at(Step.RUNNER_ONLINE, -40))
    found = parts([at(Step.WEBHOOK, 0), at(Step.COMMITTED, 0.004), *warm, at(Step.RUNNING, 1)])
    assert found.keys() == {Part.WEBHOOK_TO_COMMIT, Part.DISPATCH_TO_START, Part.START_TO_ONLINE, Part.ONLINE_TO_JOB}


@given(st.lists(st.builds(at, st.sampled_from(Step), st.floats(-1e6, 1e6)), max_size=30))
def test_whatever_is_known_nothing_is_negative(entries: list[Entry]) -> None:
    assert all(seconds >= 0 for seconds in parts(entries).values())
    assert (waited(entries) or 0.0) >= 0
    assert (ran(entries) or 0.0) >= 0


def test_strangers_cannot_make_series_without_end() -> None:
    bounded = Bounded(most=3)
    told = {bounded("pool", f"repository-{number}") for number in range(100)}
    assert told == {*(("pool", f"repository-{number}") for number in range(3)), ("other", "other")}
    assert bounded("pool", "repository-1") == ("pool", "repository-1")


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: Samples, name: str, /, **labels: str) -> float:
    (value,) = [value for (one, told), value in found.items() if one == name and labels.items() <= dict(told).items()]
    return value


class Opened:
    """The page of a sample's store."""

    def __init__(self, sample: Sample, settings: Metrics, here: Here = HERE) -> None:
        keys = sample.store.signing_keys
        self.sessions = Sessions(keys[Purpose.ADMIN], keys[Purpose.METRICS], sample.clock, Ids(5))
        self.meters = Meters()
        page = Page(sample.store, self.meters, self._here, self.sessions, sample.clock, settings)
        self._said = here
        self.page = page

    async def _here(self) -> Here:
        return self._said

    async def get(self, token: str = "") -> httpx.Response:
        served = app._application(self.page.routes(), 1000)
        transport = httpx.ASGITransport(served, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator.example") as client:
            return await client.get("/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})

    async def read(self) -> Samples:
        return samples((await self.page.text()).decode())


async def test_only_a_metrics_token_opens_it_where_nothing_else_is_said(tmp_path: Path) -> None:
    async with open_sample(tmp_path) as sample:
        closed, opened = Opened(sample, Metrics()), Opened(sample, Metrics(open=True))
        admin = closed.sessions.mint("u-1", 1, full_name="", is_admin=True)
        for token in ("", "nonsense", admin):
            refused = await closed.get(token)
            assert refused.status_code == 401
            assert "/api/v1/metrics-token" in refused.json()["details"]
            assert (await opened.get(token)).status_code == 200
        answer = await closed.get(closed.sessions.mint_for_metrics())
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        sample.clock.move(days=366)
        assert (await closed.get(closed.sessions.mint_for_metrics()[:-2])).status_code == 401


async def test_what_there_is_by_garms_names_and_ours(tmp_path: Path, database_url: str) -> None:
    async with open_sample(tmp_path, database_url) as sample:
        machine = await sample.instance()
        await sample.queue(2)
        sample.clock.move(seconds=90)
        found = await Opened(sample, Metrics()).read()
    pool, entity = sample.pool, "Octo/Widgets"
    assert of(found, "garm_health", controller_id="c-1", webhook_url="http://w") == 1
    assert of(found, "garm_repository_info", name=entity, id=sample.entity_id) == 1
    info = {"id": pool.id, "image": "debian", "flavor": "small", "provider": "libvirt", "pool_owner": entity}
    assert of(found, "garm_pool_info", **info, tags="linux,self-hosted", pool_type="repository") == 1
    assert of(found, "garm_pool_status", id=pool.id, enabled="true") == 1
    assert of(found, "garm_pool_max_runners", id=pool.id) == 3
    assert of(found, "garm_pool_bootstrap_timeout", id=pool.id) == pool.bootstrap_timeout.total_seconds() / 60
    assert of(found, "garm_runner_status", name=machine.name, status="pending_create", runner_status="pending") == 1
    assert of(found, "hostler_instances", pool="linux", entity=entity, status="pending_create") == 1
    assert of(found, "hostler_jobs", entity=entity, status="queued") == 2
    assert of(found, "hostler_jobs_oldest_seconds", entity=entity, status="queued") == 90
    assert of(found, "hostler_hosts", arch="amd64", connected="true", admission="open", short_of="") == 1
    assert of(found, "hostler_fleet_vcpus", arch="amd64") == 16
    assert of(found, "hostler_fleet_vcpus_promised", arch="amd64") == 2
    assert of(found, "hostler_fleet_memory_bytes", arch="amd64") == 32768 * 2**20
    assert of(found, "hostler_jobs_without_machine", reason="no_host") == 2
    assert of(found, "hostler_registrations_left", credentials="token") == 9
    assert (of(found, "hostler_streams"), of(found, "hostler_plans")) == (3, 1)


async def test_machines_have_no_series_each_where_nobody_wants_them(tmp_path: Path) -> None:
    async with open_sample(tmp_path) as sample:
        await sample.instance()
        found = await Opened(sample, Metrics(one_by_one=False)).read()
    assert not [name for name, _ in found if name == "garm_runner_status"]
    assert of(found, "hostler_instances", pool="linux", status="pending_create") == 1


@asynccontextmanager
async def observed(sample: Sample, meters: Meters) -> AsyncIterator[None]:
    task = asyncio.create_task(Observer(sample.store, meters).run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_job_is_measured_when_it_runs_and_when_it_has_ended(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "_LATE_SECONDS", 0.01)
    meters = Meters()
    began: list[JobWay] = []
    real = meters.began

    def noted(way: JobWay) -> None:
        began.append(way)
        real(way)

    monkeypatch.setattr(meters, "began", noted)
    async with open_sample(tmp_path, database_url) as sample, observed(sample, meters):
        machine = await sample.instance()
        store, clock = sample.store, sample.clock
        clock.move(seconds=1)
        await store.instances.record_phase(PhaseFact("host-1", machine.id, Phase.STARTED, clock()))
        clock.move(seconds=20)
        await store.ledger.record(sample.event(JobStatus.IN_PROGRESS, runner_name=machine.name))
        await until(lambda: began)
        clock.move(seconds=60)
        await store.ledger.record(sample.event(JobStatus.COMPLETED, runner_name=machine.name, conclusion="failure"))
        completed: dict[str, Any] = {"owner": "Octo", "repository": "Widgets", "conclusion": "failure"}
        count = meters.registry.get_sample_value
        await until(lambda: count("garm_job_completed_total", completed))
    assert [(way.pool, way.entity) for way in began] == [("linux", "Octo/Widgets")]
    of_pool = {"pool": "linux", "entity": "Octo/Widgets"}
    assert count("hostler_job_wait_seconds_sum", of_pool) == 21
    assert count("hostler_job_part_seconds_count", of_pool | {"part": "webhook_to_commit"}) == 1
    assert count("garm_job_queue_duration_seconds_count", {"owner": "Octo"}) == 1
    assert count("garm_job_execution_duration_seconds_sum", {"owner": "Octo"}) == 60
