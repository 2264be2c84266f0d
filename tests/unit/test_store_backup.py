"""Backup and restore: all comes back, on either engine; what cannot be used is refused and changes nothing."""

import asyncio
import gzip
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from coordinator.domain.job import JobStatus
from coordinator.store.alone import AnotherCoordinator, alone
from coordinator.store.audit import Audit
from coordinator.store.backup import LEFT_OUT, Backups, NoRoom, spooled, tables_of
from coordinator.store.backup_file import BackupUnusable, Header, Reader, Writer
from coordinator.store.database import Database, DatabaseUnusable
from coordinator.store.keys import KEY_FILE, KeyPlace, load_or_make
from coordinator.store.migrate import alembic_config, upgrade
from coordinator.store.restore import DatabaseInUse, Restored, WrongKey, restore
from coordinator.store.sealing import Sealer
from tests.samples.store import Clock, Sample, open_bare, open_sample

OLD = "0014"
Contents = dict[str, list[tuple[Any, ...]]]


def read(file: Path) -> bytes:
    return file.read_bytes()


def names(directory: Path, pattern: str) -> list[str]:
    return [path.name for path in directory.glob(pattern)]


async def contents(url: str) -> Contents:
    """Every row of every table but those that say who serves just now."""
    database = Database(url)
    async with database.read() as connection:
        tables = [table for table in await connection.run_sync(tables_of) if table.name != "planning_lease"]
        found = {table.name: (await connection.execute(sa.select(table))).all() for table in tables}
    await database.close()
    return {name: sorted((tuple(row) for row in rows), key=repr) for name, rows in found.items()}


async def tables(url: str) -> list[str]:
    database = Database(url)
    async with database.read() as connection:
        found = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
    await database.close()
    return found


async def fill(sample: Sample) -> None:
    machine = await sample.instance()
    await sample.store.instances.configure_runner(machine.id, 7, {".runner": b"\x00\xff settings"})
    await sample.store.hosts.keep_console(machine.id, b"boot\r\n" * 1000, truncated=True)
    await sample.store.notes.flush()


async def written(sample: Sample, file: Path) -> int:
    with file.open("wb") as opened:
        return await sample.store.backups.write(opened)


async def restored(url: str, file: Path) -> Restored:
    return await restore(url, file, KeyPlace(file.parent / KEY_FILE))


async def serves(directory: Path, url: str) -> None:
    """A coordinator on it plans, writes and finds that nobody changed what was audited."""
    async with open_bare(directory, url, kind=3) as sample:
        await sample.store.members.beat({})
        assert sample.store.lease.number is not None
        await sample.look()
        await sample.store.ledger.record(sample.event(JobStatus.QUEUED, 99))
        await sample.store.notes.flush()
        assert not (await sample.store.audit.verify()).fault
        await sample.store.members.leave()


async def test_all_comes_back_into_either_engine(
    tmp_path: Path, database_url: str, request: pytest.FixtureRequest
) -> None:
    first, second = tmp_path / "first.gz", tmp_path / "second.gz"
    other = f"sqlite:///{tmp_path}/other.db"
    async with open_sample(tmp_path, database_url) as sample:
        await fill(sample)
        count = await written(sample, first)
        before = await contents(database_url)
        await sample.store.members.leave()
    assert (await restored(other, first)).rows == count
    assert await contents(other) == before
    assert {"jobs", "instances", "consoles", "audit", "pools", "timeline"} <= {name for name in before if before[name]}
    await serves(tmp_path, other)

    again = request.getfixturevalue("postgres_server").empty() if "postgresql" in database_url else f"{other}.again"
    async with open_bare(tmp_path, other, kind=4) as sample:
        await written(sample, second)
    await restored(again, second)
    assert await contents(again) == await contents(other)
    await serves(tmp_path, again)


async def test_under_load_every_job_that_was_accepted_before_is_in_it(tmp_path: Path, database_url: str) -> None:
    file, other = tmp_path / "backup.gz", f"sqlite:///{tmp_path}/other.db"
    async with open_sample(tmp_path, database_url) as sample:
        accepted: set[int] = set()

        async def load(first: int) -> None:
            for number in range(first, first + 400):
                await sample.queue(number)
                accepted.add(number)

        working = [asyncio.create_task(load(1000 * worker)) for worker in range(1, 9)]
        while len(accepted) < 300:
            await asyncio.sleep(0)
        owed = set(accepted)
        await written(sample, file)
        meanwhile = len(accepted) - len(owed)
        await asyncio.gather(*working)
    await restored(other, file)
    kept = {row[2] for row in (await contents(other))["jobs"]}
    assert owed <= kept <= accepted
    assert meanwhile > 0  # it did not stop the others


async def an_old_one(path: Path) -> str:
    """An SQLite as an older program left it, with a key and a user in it."""
    database = Database(f"sqlite:///{path}")
    sealer = Sealer(*load_or_make(KeyPlace(path.parent / KEY_FILE)))
    async with database.write() as connection:
        await connection.run_sync(upgrade, OLD)
        found = {table.name: table for table in await connection.run_sync(tables_of)}
        key = sealer.seal(b"k" * 32, "controller:c-1")
        row = {"id": "c-1", "instance_token_key": key, "created_at": 1}
        await connection.execute(sa.insert(found["controller"]).values(row))
        columns = found["users"].columns
        user = {column.name: 1 if isinstance(column.type, sa.Integer) else "ada" for column in columns}
        await connection.execute(sa.insert(found["users"]).values(user | {"enabled": True}))
    await database.close()
    return f"sqlite:///{path}"


async def test_a_backup_of_an_older_schema_is_brought_to_this_one(tmp_path: Path) -> None:
    file, other = tmp_path / "backup.gz", f"sqlite:///{tmp_path}/other.db"
    database = Database(await an_old_one(tmp_path / "old.db"))
    with file.open("wb") as opened:
        await Backups(database, Audit(database, Clock()), Clock()).write(opened)
    await database.close()
    assert (await restored(other, file)).header.revision == OLD
    found = await contents(other)
    assert [row[1] for row in found["users"]] == ["ada"]
    assert found["scale_sets"] == []


@pytest.fixture
async def backup(tmp_path: Path) -> Path:
    file = tmp_path / "backup.gz"
    async with open_sample(tmp_path) as sample:
        await fill(sample)
        await written(sample, file)
    return file


async def test_what_is_cut_off_or_damaged_is_refused_and_nothing_is_changed(backup: Path, tmp_path: Path) -> None:
    whole = read(backup)
    bad = tmp_path / "bad.gz"
    url = f"sqlite:///{tmp_path}/other.db"
    step = len(whole) // 25
    damaged = [whole[:place] for place in range(1, len(whole), step)]
    damaged += [
        whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :] for place in range(12, len(whole), step)
    ]
    for content in [b"", b"\n", b"hello", gzip.compress(b"hello"), gzip.compress(b'{"hostler_backup":1}\n'), *damaged]:
        bad.write_bytes(content)
        with pytest.raises(BackupUnusable):
            await restored(url, bad)
        assert await tables(url) == []
    await restored(url, backup)


async def test_lines_that_are_missing_are_missed_though_it_is_packed_well(backup: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gz"
    lines = gzip.decompress(read(backup)).splitlines(keepends=True)
    row = next(number for number, line in enumerate(lines) if line.startswith(b"["))
    begins = next(number for number, line in enumerate(lines) if line.startswith(b'{"table"'))
    for changed in (
        lines[:-1],
        [*lines[:row], *lines[row + 1 :]],
        [*lines[:row], lines[row][:-2] + b',"more"]\n', *lines[row + 1 :]],
        [*lines[:begins], b'{"table":"others","columns":["id"]}\n', *lines[begins + 1 :]],
        [*lines, lines[-1]],
    ):
        bad.write_bytes(gzip.compress(b"".join(changed)))
        with pytest.raises(BackupUnusable):
            await restored(f"sqlite:///{tmp_path}/other.db", bad)


async def test_newer_ones_are_refused_and_say_what_to_install(backup: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gz"
    with backup.open("rb") as file, Reader(file) as reader:
        header = reader.header
    for changed, said in (
        (Header(2, "9.1", header.revision, 0, ""), r"format 2.*9\.1"),
        (Header(1, "9.1", "9999", 0, ""), r"schema 9999.*9\.1"),
    ):
        with bad.open("wb") as opened:
            Writer(opened, changed).end()
        with pytest.raises(BackupUnusable, match=said):
            await restored(f"sqlite:///{tmp_path}/other.db", bad)


async def test_a_database_with_something_in_it_is_left_alone(backup: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hostler.db"
    before = await contents(url)
    with pytest.raises(DatabaseInUse, match="move the old one away"):
        await restored(url, backup)
    assert await contents(url) == before
    with alone(f"sqlite:///{tmp_path}/other.db"), pytest.raises(AnotherCoordinator):
        await restored(f"sqlite:///{tmp_path}/other.db", backup)


async def test_another_key_is_refused_and_nothing_is_changed(backup: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    other.write_bytes(b"k" * 32)
    other.chmod(0o600)
    url = f"sqlite:///{tmp_path}/other.db"
    with pytest.raises(WrongKey, match=r"other\.key.*its coordinator had"):
        await restore(url, backup, KeyPlace(other))
    assert await tables(url) == []


async def test_no_file_is_said_to_be_none(tmp_path: Path, backup: Path) -> None:
    with pytest.raises(BackupUnusable, match="No such file"):
        await restored(f"sqlite:///{tmp_path}/other.db", backup.with_name("missing.gz"))


async def test_no_secret_can_be_read_in_it_and_nothing_of_who_serves_just_now(backup: Path) -> None:
    text = gzip.decompress(read(backup))
    assert b"planted" not in text
    assert not [name for name in LEFT_OUT if f'"table":"{name}"'.encode() in text]


async def test_it_is_put_together_where_there_is_room_or_refused(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="make room there"), spooled(tmp_path / "missing"):
        pass
    with spooled(tmp_path) as file:
        file.write(b"some")
        assert names(tmp_path, "*") == []


def schema(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


async def test_an_old_sqlite_is_kept_before_its_schema_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "hostler.db"
    url = await an_old_one(path)
    before = await contents(url)
    for _ in range(2):  # the second time there is nothing to change
        async with open_bare(tmp_path, url):
            pass
    kept = tmp_path / f"hostler.db.before-{schema(path)}"
    assert (schema(kept), kept.stat().st_mode & 0o777) == (OLD, 0o600)
    assert names(tmp_path, "hostler.db.before-*") == [kept.name]
    assert await contents(f"sqlite:///{kept}") == before


async def test_without_room_for_the_old_one_the_schema_stays(tmp_path: Path) -> None:
    path = tmp_path / "hostler.db"
    url = await an_old_one(path)
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    (tmp_path / f"hostler.db.before-{head}").mkdir()  # in its way
    with pytest.raises(DatabaseUnusable, match="make room beside it"):
        async with open_bare(tmp_path, url):
            pass
    assert schema(path) == OLD
    assert names(tmp_path, "*.part") == []
