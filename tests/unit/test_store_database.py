"""The database itself: migrations, durability, sealed secrets, and errors at opening that say what to do."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.changes import Phase
from coordinator.domain.job import JobStatus
from coordinator.store.alone import AnotherCoordinator, alone
from coordinator.store.database import Database, DatabaseUnusable, driver_url
from coordinator.store.instances import PhaseFact
from coordinator.store.keys import KEY_FILE, KeyFileUnusable, KeyPlace, load_or_make
from coordinator.store.migrate import migrate
from coordinator.store.schema import metadata
from coordinator.store.sealing import SealBroken, Sealer
from coordinator.store.store import Store, open_store
from tests.samples.domain import calm
from tests.samples.store import FORGE_TOKEN, WEBHOOK_SECRET, Clock, Ids, open_sample


async def _open(directory: Path, url: str = "") -> Store:
    return await open_store(
        url or f"sqlite:///{directory}/hostler.db", directory, clock=Clock(), new_id=Ids(), chance=lambda: 0.0
    )


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    yield database
    await database.close()


async def test_the_migrations_lead_to_the_tables_of_the_program(empty_database_url: str) -> None:
    database = Database(empty_database_url)

    def differences(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))

    async with database.write() as connection:
        # The comparison sees differences at all: before the migrations every table is one.
        assert len(await connection.run_sync(differences)) >= len(metadata.tables)
    await migrate(database)
    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
    await migrate(database)
    await database.close()


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path, database_url: str) -> None:
    await (await _open(tmp_path, database_url)).close()
    async with _database(database_url) as plain, plain.write() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnusable, match=r"schema 9999.*written by a newer version"):
        await _open(tmp_path, database_url)
    async with _database(database_url) as plain, plain.read() as connection:
        versions = await connection.scalars(sa.text("SELECT version_num FROM alembic_version"))
        assert versions.all() == ["9999"]


async def test_every_connection_writes_ahead_and_syncs_each_commit(tmp_path: Path) -> None:
    store = await _open(tmp_path)

    def settings(connection: sa.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.scalar(sa.text(f"PRAGMA {name}")) for name in names]

    assert await store._database.at_once(settings) == ["wal", 2, 1]
    for block in (store._database.write, store._database.read):
        async with block() as connection:
            assert await connection.run_sync(settings) == ["wal", 2, 1]
    await store.close()


async def test_the_controller_stays_who_it_is(tmp_path: Path, database_url: str) -> None:
    first = await _open(tmp_path, database_url)
    who, key = first.controller_id, first.instance_token_key
    await first.close()
    second = await _open(tmp_path, database_url)
    assert (second.controller_id, second.instance_token_key) == (who, key)
    assert len(key) == 32
    await second.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://user:hush@host/name", "no database Hostler knows"),
        ("postgresql:/user:hush@host/name", "not a database URL"),
        ("postgresql://user:hush@host:port/name", "not a database URL"),
        ("sqlite://", "no database Hostler knows"),
        ("sqlite:///:memory:", "no database Hostler knows"),
        ("sqlite:///here.db", "no database Hostler knows"),
        ("", "not a database URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(DatabaseUnusable, match=reason) as caught:
        driver_url(url)
    assert "allowed: sqlite:////absolute/path.db or postgresql://" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_postgresql_is_spoken_to_through_asyncpg() -> None:
    for name in ("postgresql", "postgres"):
        assert driver_url(f"{name}://u:p@h/d").drivername == "postgresql+asyncpg"


async def test_what_cannot_be_opened_is_said_as_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_bytes(b"this is no database" * 100)
    (tmp_path / "folder").mkdir()
    for name in ("junk.db", "folder", "missing/hostler.db"):
        with pytest.raises(DatabaseUnusable, match=r"check database\.url"):
            await _open(tmp_path, f"sqlite:///{tmp_path}/{name}")
    with pytest.raises(DatabaseUnusable, match=r"u:\*\*\*@127\.0\.0\.1:1/d"):
        await _open(tmp_path, "postgresql://u:hush@127.0.0.1:1/d")
    with pytest.raises(KeyFileUnusable, match="data_dir"):
        await _open(tmp_path / "nowhere", f"sqlite:///{tmp_path}/hostler.db")


# --- sealed secrets ---


def test_a_secret_is_opened_by_its_key_for_its_owner_only() -> None:
    sealer = Sealer(b"k" * 32)
    sealed = sealer.seal(b"secret", "credentials:1")
    assert sealer.open(sealed, "credentials:1") == b"secret"
    assert sealed != sealer.seal(b"secret", "credentials:1")
    for other, owner in ((Sealer(b"l" * 32), "credentials:1"), (sealer, "credentials:2")):
        with pytest.raises(SealBroken, match=r"cannot be opened.*the key file must be the one"):
            other.open(sealed, owner)


@calm
@given(st.data())
def test_no_byte_of_a_sealed_secret_can_be_changed_or_lost(data: st.DataObject) -> None:
    sealer = Sealer(b"k" * 32)
    sealed = sealer.seal(b"secret", "credentials:1")
    where = data.draw(st.integers(0, len(sealed) - 1))
    flipped = sealed[where] ^ data.draw(st.integers(1, 255))
    for damaged in (sealed[:where] + bytes([flipped]) + sealed[where + 1 :], sealed[:where]):
        with pytest.raises(SealBroken):
            sealer.open(damaged, "credentials:1")


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    (key,) = load_or_make(KeyPlace(tmp_path / KEY_FILE))
    assert len(key) == 32
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert load_or_make(KeyPlace(tmp_path / KEY_FILE)) == [key]
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    load_or_make(KeyPlace(tmp_path / KEY_FILE))
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(KeyFileUnusable, match="chmod 600"):
        load_or_make(KeyPlace(tmp_path / KEY_FILE))


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_of_a_wrong_length_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(KeyFileUnusable, match=f"holds {len(content)} bytes instead of 32"):
        load_or_make(KeyPlace(tmp_path / KEY_FILE))


async def test_a_database_is_not_opened_with_another_key(tmp_path: Path, database_url: str) -> None:
    await (await _open(tmp_path, database_url)).close()
    (tmp_path / KEY_FILE).write_bytes(os.urandom(32))
    with pytest.raises(SealBroken):
        await _open(tmp_path, database_url)


def test_a_second_coordinator_on_one_sqlite_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hostler.db"
    with alone(url):
        with pytest.raises(AnotherCoordinator, match=r"another coordinator uses.*several.*need PostgreSQL"), alone(url):
            raise AssertionError("two at once")
        with alone(f"sqlite:///{tmp_path}/other.db"):
            pass
    with alone(url):
        pass


def test_several_may_use_one_postgresql() -> None:
    url = "postgresql://user@host/name"
    with alone(url), alone(url):
        pass


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def test_no_secret_is_in_the_files_in_plain(tmp_path: Path) -> None:
    jit = {".runner": b"planted-jit-settings-161803", ".credentials": b"planted-jit-credentials-141421"}
    async with open_sample(tmp_path) as sample:
        instance = await sample.instance()
        await sample.store.instances.configure_runner(instance.id, 7, jit)
        fact = PhaseFact("host-1", instance.id, Phase.ACCEPTED, sample.clock(), "planted-detail-577215")
        await sample.store.instances.record_phase(fact)
        await sample.store.ledger.record(sample.event(JobStatus.QUEUED, 2))
        key = sample.store.instance_token_key
        files = _contents(tmp_path)
        assert {"hostler.db", "hostler.db-wal", KEY_FILE} <= set(files)
        # What is no secret is found, so the search does find things.
        assert any(b"planted-detail-577215" in content for content in files.values())
        secrets = [FORGE_TOKEN.encode(), WEBHOOK_SECRET.encode(), key, *jit.values()]
        for name, content in files.items():
            assert not [secret for secret in secrets if secret in content], name
        await sample.store.instances.take_runner_file(instance.id, ".runner")
    content = _contents(tmp_path)["hostler.db"]
    assert not [secret for secret in secrets if secret in content]
