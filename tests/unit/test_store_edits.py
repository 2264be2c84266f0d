"""Single declared objects in the database: what becomes of their rows, secrets, history and times."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from coordinator.declare import CredentialsDeclaration, EndpointDeclaration
from coordinator.domain.changes import Phase
from coordinator.domain.job import JobStatus
from coordinator.store.database import Database
from coordinator.store.edits import CREDENTIALS, ENDPOINT, POOL, REPOSITORY, InUse, NotThere
from coordinator.store.instances import PhaseFact
from coordinator.store.ledger import EntityGone
from coordinator.store.migrate import alembic_config, migrate
from coordinator.store.schema import consoles, instances, jobs, timeline
from coordinator.store.writing import AlreadyThere, Clash
from hostler.errors import ConfigError
from tests.samples.store import DOCUMENT, FORGE_TOKEN, TWIN, Sample, open_sample

NONE: frozenset[str] = frozenset()


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def _count(sample: Sample, table: sa.Table) -> int:
    async with sample.store._database.read() as connection:
        return int(await connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


async def test_what_is_changed_alone_is_what_would_be_declared(sample: Sample) -> None:
    edits = sample.store.edits
    await edits.change(ENDPOINT, "forge", {"registrations_per_minute": 7}, NONE)
    await edits.change(REPOSITORY, sample.entity_id, {"weight": 2.0}, NONE)
    await edits.change(POOL, sample.pool.id, {"max_runners": 9}, NONE)
    assert await sample.apply(DOCUMENT) == [
        "endpoint forge: updated (registrations_per_minute)",
        "repository Octo/Widgets: updated (weight)",
        "pool linux: updated (max_runners)",
    ]


async def test_times_are_those_of_the_first_word_and_of_the_last_change(sample: Sample) -> None:
    edits = sample.store.edits
    start = sample.clock()
    sample.clock.move(hours=1)
    await edits.change(POOL, sample.pool.id, {"max_runners": sample.pool.max_runners}, NONE)  # no change
    await edits.change(REPOSITORY, sample.entity_id, {"priority": 5}, NONE)
    there = await edits.overview()
    pool, entity = there.pools[sample.pool.id].times, there.entities[sample.entity_id].times
    assert (pool.created_at, pool.changed_at) == (start, start)
    assert (entity.created_at, entity.changed_at) == (start, sample.clock())


async def test_credentials_made_at_once_have_numbers_of_their_own(sample: Sample) -> None:
    edits = sample.store.edits
    made = [CredentialsDeclaration(f"c{number}", "forge", "t") for number in range(5)]
    await asyncio.gather(*(edits.add(one, NONE) for one in made))
    numbers = [known.number for known in (await edits.overview()).credentials.values()]
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


async def test_a_renamed_credential_keeps_its_secret(sample: Sample) -> None:
    await sample.store.edits.change(CREDENTIALS, 1, {"name": "other"}, NONE)
    assert (await sample.store.catalog.forge_access(sample.entity_id)).token == FORGE_TOKEN


async def test_what_does_not_go_together_changes_nothing(sample: Sample) -> None:
    edits = sample.store.edits
    await edits.add(EndpointDeclaration("two", "https://two.example"), NONE)
    before = await edits.overview()
    with pytest.raises(AlreadyThere, match="there is endpoint two already"):
        await edits.add(EndpointDeclaration("two", "https://three.example"), NONE)
    with pytest.raises(Clash, match="is that of endpoint 'forge'"):
        await edits.change(ENDPOINT, "two", {"base_url": "https://forge.example"}, NONE)
    with pytest.raises(ConfigError, match="min_idle_runners"):
        await edits.change(POOL, sample.pool.id, {"min_idle_runners": 99}, NONE)
    for kind, key in ((ENDPOINT, "three"), (ENDPOINT, "tw\0o"), (CREDENTIALS, 99), (POOL, "x"), (REPOSITORY, "x")):
        with pytest.raises(NotThere):
            await edits.change(kind, key, {}, NONE)
        with pytest.raises(NotThere):
            await edits.remove(kind, key)
    for kind, key in ((ENDPOINT, "forge"), (CREDENTIALS, 1), (REPOSITORY, sample.entity_id)):
        with pytest.raises(InUse, match="first"):
            await edits.remove(kind, key)
    assert await edits.overview() == before


async def test_the_whole_of_it_goes_from_pool_to_endpoint(sample: Sample) -> None:
    machine = await sample.instance()
    with pytest.raises(InUse, match=machine.name):
        await sample.store.edits.remove(POOL, sample.pool.id)
    event = sample.event(JobStatus.COMPLETED, runner_name=machine.name)
    await sample.store.ledger.record(event)
    await sample.store.hosts.keep_console(machine.id, b"login:", truncated=False)
    await sample.store.instances.record_phase(PhaseFact("host-1", machine.id, Phase.DELETED, sample.clock()))
    await sample.store.notes.flush()
    edits = sample.store.edits
    await edits.remove(POOL, sample.pool.id)
    assert await _count(sample, instances) == await _count(sample, consoles) == 0
    assert await _count(sample, jobs) == 1  # its repository's
    await edits.remove(REPOSITORY, sample.entity_id)
    assert await _count(sample, jobs) == await _count(sample, timeline) == 0
    await edits.remove(CREDENTIALS, 1)
    await edits.remove(ENDPOINT, "forge")
    there = await edits.overview()
    assert [*there.endpoints, *there.credentials, *there.entities, *there.pools] == []
    assert not (await sample.store.audit.verify()).fault


async def test_the_history_of_others_stays(sample: Sample) -> None:
    await sample.apply(TWIN)
    await sample.queue(1)
    twin = await sample.entity_of("evil")
    await sample.store.ledger.record(sample.event(JobStatus.QUEUED, 2, entity_id=twin))
    await sample.store.edits.remove(REPOSITORY, twin)
    (job,) = await sample.store.history.jobs(completed=True)
    assert job.key.entity_id == sample.entity_id


async def test_credentials_of_before_get_numbers_and_times(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    async with database.write() as connection:
        await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), "0012"))
        await connection.execute(
            sa.text(
                "INSERT INTO endpoints (id, name, kind, base_url, api_base_url)"
                " VALUES ('e', 'forge', 'github', 'https://f', 'https://f')"
            )
        )
        for name in ("b", "a"):
            row = sa.text("INSERT INTO credentials (id, name, endpoint_id, token) VALUES (:id, :name, 'e', :token)")
            await connection.execute(row, {"id": name, "name": name, "token": b"x"})
    await migrate(database)
    async with database.read() as connection:
        rows = (await connection.execute(sa.text("SELECT name, number, created_at FROM credentials"))).all()
    assert {(row.name, row.number) for row in rows} == {("a", 1), ("b", 2)}
    assert all(row.created_at > 0 for row in rows)
    await database.close()


async def test_a_webhook_of_what_was_just_removed_takes_no_other_with_it(sample: Sample) -> None:
    await sample.apply(TWIN)
    gone = sample.event(JobStatus.QUEUED, 1, entity_id=await sample.entity_of("evil"))
    await sample.store.edits.remove(REPOSITORY, gone.key.entity_id)
    mine = sample.event(JobStatus.QUEUED, 2)
    failed, recorded = await asyncio.gather(
        sample.store.ledger.record(gone), sample.store.ledger.record(mine), return_exceptions=True
    )
    assert isinstance(failed, EntityGone)
    assert [recorded] == await sample.store.history.jobs(completed=True)
