"""What only PostgreSQL can show of the store: servers that refuse or do not answer, and stores that write at once."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from coordinator.domain.changes import Phase
from coordinator.domain.instance import Instance, Status
from coordinator.domain.job import JobStatus
from coordinator.domain.world import Create, Plan
from coordinator.store import postgres, retrying
from coordinator.store.changed import Changes
from coordinator.store.database import DatabaseUnusable
from coordinator.store.instances import PhaseFact
from coordinator.store.lease import LeaseLost
from coordinator.store.retrying import retried
from coordinator.store.schema import coordinators, hosts
from coordinator.store.telling import Told
from tests.real.postgres import Postgres
from tests.samples.store import DOCUMENT, Sample, open_bare, open_sample

pytestmark = pytest.mark.real


@asynccontextmanager
async def several(directory: Path, url: str, count: int) -> AsyncIterator[list[Sample]]:
    """Stores on one database as of so many processes; the first is the one that plans."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_sample(directory, url))
        others = [await stack.enter_async_context(open_bare(directory, url, kind)) for kind in range(1, count)]
        for other in others:
            await other.look()
            await other.store.members.beat({})
        yield [first, *others]


# --- servers that cannot be used ---


async def _refused(directory: Path, url: str) -> str:
    with pytest.raises(DatabaseUnusable) as caught:
        async with open_bare(directory, url):
            pass
    assert "check database.url" in str(caught.value)
    return str(caught.value)


async def test_a_wrong_password_and_a_wrong_name_are_said_without_the_password(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    said = await _refused(tmp_path, postgres_server.url("postgres", "not-the-password"))
    assert "password authentication failed" in said
    assert "not-the-password" not in said
    assert '"nothing" does not exist' in await _refused(tmp_path, postgres_server.url("nothing"))


async def test_a_server_that_is_not_there_or_never_answers_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "127.0.0.1" in await _refused(tmp_path, "postgresql://u:p@127.0.0.1:1/d")
    assert await _refused(tmp_path, "postgresql://u:p@no-such-host.invalid/d")
    monkeypatch.setattr(postgres, "_CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = await _refused(tmp_path, f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d")
    assert "no answer within" in said


async def test_a_server_that_went_away_fails_what_is_asked_and_is_used_again_when_it_is_back(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    async with open_sample(tmp_path, postgres_server.migrated()) as sample:
        await sample.queue(1)
        await asyncio.to_thread(postgres_server.stop, signal.SIGQUIT)
        with pytest.raises(DatabaseUnusable, match=r"check database\.url"):
            await sample.queue(2)
        await asyncio.to_thread(postgres_server.start)
        assert {(await sample.queue(3)).key.forge_job_id for _ in range(3)} == {3}
        assert len(await sample.store.history.jobs(completed=True)) == 2


# --- stores that write at once ---


async def test_an_empty_database_is_set_up_once_by_all_who_start_together(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    url = postgres_server.empty()

    async def start(kind: int) -> str:
        async with open_bare(tmp_path, url, kind) as sample:
            return sample.store.controller_id

    assert len(set(await asyncio.gather(*map(start, range(5))))) == 1


async def test_the_same_webhooks_at_three_coordinators_are_one_job_each(
    tmp_path: Path, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = _count_tries(monkeypatch)
    async with several(tmp_path, postgres_server.migrated(), 3) as samples:
        steps = (JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.COMPLETED)
        for status in steps:
            events = [sample.event(status, number) for number in range(1, 201) for sample in samples]
            records = zip(events, samples * 200, strict=True)
            done = await asyncio.gather(*(sample.store.ledger.record(event) for event, sample in records))
            assert len({job.id for job in done}) == 200
        assert {job.status for job in await samples[0].store.history.jobs(completed=True)} == {JobStatus.COMPLETED}
    assert lost  # the transactions did get into each other's way


async def test_machines_that_end_while_their_jobs_are_told_of_elsewhere_block_nobody_for_long(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    async with several(tmp_path, postgres_server.migrated(), 2) as (here, there):
        await here.apply(DOCUMENT.replace("max_runners = 3", "max_runners = 100"))
        machines = [await here.instance(number) for number in range(1, 41)]
        stopped = [PhaseFact("host-1", one.id, Phase.FAILED, here.clock(), "it broke") for one in machines]
        begun = [
            there.event(JobStatus.IN_PROGRESS, number, runner_name=one.name)
            for number, one in enumerate(reversed(machines), 1)
        ]
        async with asyncio.timeout(5):
            await asyncio.gather(
                *map(here.store.instances.record_phase, stopped), *map(there.store.ledger.record, begun)
            )
        assert {one.status for one in [await here.now(machine) for machine in machines]} == {Status.PENDING_DELETE}


async def test_transactions_that_wait_for_each_other_are_both_done(tmp_path: Path, postgres_server: Postgres) -> None:
    async with several(tmp_path, postgres_server.migrated(), 2) as (here, there):
        for name in ("host-1", "host-2"):
            await here.store.hosts.present(here.host(name), 1, "agent")
        met, tries = asyncio.Barrier(2), []

        @retried
        async def lock(sample: Sample, first: str, second: str) -> None:
            tries.append(first)
            async with sample.store._database.write() as connection:
                for name in (first, second):
                    await connection.execute(sa.update(hosts).where(hosts.c.name == name).values(failures=9))
                    if name == first and len(tries) <= 2:
                        await met.wait()

        await asyncio.gather(lock(here, "host-1", "host-2"), lock(there, "host-2", "host-1"))
        assert len(tries) == 3


def _count_tries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The use cases that are tried again from now on."""
    again: list[str] = []

    class Log:
        def debug(self, _: str, *, use_case: str, **__: Any) -> None:
            again.append(use_case)

    monkeypatch.setattr(retrying, "log", Log())
    return again


# --- who plans ---


async def test_a_plan_of_a_former_holder_is_refused_though_it_believes_to_hold_the_lease(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    async with several(tmp_path, postgres_server.migrated(), 2) as (former, holder):
        job = await former.queue(1)
        plan = Plan(creates=(Create(former.pool, "host-1", job.id),))
        await _expire(former, former.store.me)
        await holder.store.members.beat({})
        assert (former.store.lease.number, holder.store.lease.number) == (1, 2)
        with pytest.raises(LeaseLost):
            await former.store.planning.commit(plan)
        assert len(await holder.store.planning.commit(plan)) == 1
        assert len(await holder.store.instances.alive()) == 1


async def test_who_takes_the_lease_over_waits_for_a_plan_that_is_being_committed(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    async with several(tmp_path, postgres_server.migrated(), 2) as (former, holder):
        await _expire(former, former.store.me)
        async with former.store._database.write() as connection:
            await connection.run_sync(former.store.lease.check)
            taking = asyncio.create_task(holder.store.members.beat({}))
            await asyncio.wait({taking}, timeout=0.3)
            assert not taking.done()
        await taking
        assert holder.store.lease.number == 2


async def test_streams_of_a_coordinator_that_is_dead_are_forgotten(tmp_path: Path, postgres_server: Postgres) -> None:
    async with several(tmp_path, postgres_server.migrated(), 2) as (planner, other):
        await other.store.hosts.present(other.host("host-2"), 1, "agent")
        assert [host.connected for host in await planner.store.hosts.all()] == [True, True]
        await _expire(planner, other.store.me)
        await planner.store.members.beat({"host-1": 1})
        assert [host.connected for host in await planner.store.hosts.all()] == [True, False]
        await other.store.members.beat({"host-2": 1})  # it was only slow
        assert [host.connected for host in await planner.store.hosts.all()] == [True, True]


async def _expire(sample: Sample, coordinator_id: str) -> None:
    """As when its beats had stopped long ago."""
    async with sample.store._database.write() as connection:
        dead = sa.update(coordinators).where(coordinators.c.id == coordinator_id)
        await connection.execute(dead.values(expires_at=0))
        await connection.execute(
            sa.text("UPDATE planning_lease SET expires_at = 0 WHERE holder = :id"), {"id": coordinator_id}
        )


# --- what is told ---


class Ear:
    def __init__(self, sample: Sample) -> None:
        self.heard = Changes()
        self.missed = 0
        self.news = asyncio.Event()
        self._task = asyncio.create_task(sample.store.listener(self._hear, self._missed).run())

    def _hear(self, told: Told) -> None:
        self.heard.take_in(told.changes)
        self.news.set()

    def _missed(self) -> None:
        self.missed += 1
        self.news.set()

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await self.news.wait()
                self.news.clear()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def listened(tmp_path: Path, postgres_server: Postgres) -> AsyncIterator[tuple[Sample, Ear]]:
    """A store, and the ear of another one."""
    async with several(tmp_path, postgres_server.migrated(), 2) as (speaker, other):
        ear = Ear(other)
        await ear.until(lambda: ear.missed == 1)
        yield speaker, ear
        await ear.close()


async def test_others_hear_what_was_committed_and_only_that(listened: tuple[Sample, Ear]) -> None:
    speaker, ear = listened
    with suppress(ZeroDivisionError):
        async with speaker.store._database.write() as connection:
            await speaker.store._database.tell(connection, Told("nobody", Changes(jobs={"never committed"})))
            raise ZeroDivisionError
    made: Instance = await speaker.instance(1)
    await speaker.store.instances.configure_runner(made.id, 7, {".runner": b""})
    await ear.until(lambda: ear.heard.configured)
    assert ear.heard == Changes(jobs={made.for_job}, instances={made.id}, configured={made.id})


async def test_a_storm_is_heard_whole_or_as_everything(listened: tuple[Sample, Ear]) -> None:
    speaker, ear = listened
    queued = await asyncio.gather(*(speaker.queue(number) for number in range(1, 1001)))
    await ear.until(lambda: len(ear.heard.jobs) == 1000)
    assert ear.heard.jobs == {job.id for job in queued}
    assert not ear.heard.everything


async def test_a_listener_that_is_cut_off_listens_again_and_knows_that_it_missed_something(
    listened: tuple[Sample, Ear], postgres_server: Postgres
) -> None:
    speaker, ear = listened
    await asyncio.to_thread(postgres_server.stop, signal.SIGQUIT)
    await asyncio.to_thread(postgres_server.start)
    await ear.until(lambda: ear.missed == 2)
    job = await speaker.queue(1)
    await ear.until(lambda: ear.heard.jobs == {job.id})
