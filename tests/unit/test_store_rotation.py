"""Rotating the sealing key: everything opens with the new one, and a kill at any moment leaves what serves on."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

from coordinator.store import keys, rotation
from coordinator.store.alone import AnotherCoordinator, alone
from coordinator.store.database import Database, DatabaseUnusable
from coordinator.store.keys import KEY_FILE, KeyFileUnusable, KeyPlace
from coordinator.store.rotation import CredentialFixed, Rotated, StillRunning
from coordinator.store.schema import consoles, instances, metadata
from coordinator.store.sealing import SealBroken, Sealer
from coordinator.store.store import Store, open_store
from tests.samples.store import FORGE_TOKEN, WEBHOOK_SECRET, Clock, Ids, open_sample

FILES = {".runner": b"settings"}
SECRETS = 7  # of the controller, three signing keys, the credentials, the repository and one instance


@asynccontextmanager
async def reopened(directory: Path, url: str, place: KeyPlace | None = None) -> AsyncIterator[Store]:
    store = await open_store(url, directory, clock=Clock(), new_id=Ids(9), chance=lambda: 0.0, key=place)
    try:
        yield store
    finally:
        await store.close()


class Installation:
    """A database with one secret of each kind in it, whose coordinator has ended."""

    def __init__(self, directory: Path, url: str) -> None:
        self.url = url
        self.directory = directory
        self.place = KeyPlace(directory / KEY_FILE)
        self.entity_id = ""
        self.instance_id = ""
        self.token_key = b""

    async def fill(self) -> None:
        async with open_sample(self.directory, self.url) as sample:
            self.entity_id, self.token_key = sample.entity_id, sample.store.instance_token_key
            machine = await sample.instance()
            self.instance_id = machine.id
            await sample.store.instances.configure_runner(machine.id, 7, FILES)
            await sample.store.members.leave()

    async def serves(self) -> None:
        """A coordinator that starts now opens every secret."""
        async with reopened(self.directory, self.url, self.place) as store:
            assert store.instance_token_key == self.token_key
            assert (await store.catalog.forge_access(self.entity_id)).token == FORGE_TOKEN
            owner = await store.catalog.repository("https://forge.example", "octo", "widgets")
            assert owner is not None
            assert owner.secret == WEBHOOK_SECRET.encode()
            assert await store.instances.take_runner_file(self.instance_id, ".runner") == b"settings"
            async with store._database.write() as connection:  # for the next time
                await connection.execute(sa.update(instances).values(runner_files_taken=frozenset()))

    async def rotate(self) -> Rotated:
        return await rotation.rotate(self.url, self.place)

    def key_files(self) -> list[str]:
        return [path.name for path in self.directory.iterdir() if path.name.startswith(KEY_FILE)]

    async def sealed(self) -> dict[str, bytes]:
        """By whom each belongs to."""
        database = Database(self.url)
        async with database.read() as connection:
            found = {
                f"{owner}:{row.id}": row.sealed
                for column, owner in rotation.SEALED
                for row in await rotation._sealed(connection, column)
            }
        await database.close()
        return found

    async def opens_with(self, key: bytes) -> int:
        """How many of the secrets this key opens."""
        sealer, count = Sealer(key), 0
        for owner, sealed in (await self.sealed()).items():
            try:
                sealer.open(sealed, owner)
            except SealBroken:
                continue
            count += 1
        return count


@pytest.fixture
async def installation(tmp_path: Path, database_url: str) -> Installation:
    made = Installation(tmp_path, database_url)
    await made.fill()
    return made


def test_every_sealed_column_is_known() -> None:
    binary = {
        column for table in metadata.tables.values() for column in table.c if isinstance(column.type, sa.LargeBinary)
    }
    assert {column for column, _ in rotation.SEALED} == binary - {consoles.c.data}


async def test_everything_is_sealed_with_a_new_key_and_the_old_one_opens_nothing(installation: Installation) -> None:
    old = installation.place.path.read_bytes()
    assert await installation.opens_with(old) == SECRETS
    assert await installation.rotate() == Rotated(SECRETS, finished_earlier=False)
    new = installation.place.path.read_bytes()
    assert len(new) == 32
    assert new != old
    assert await installation.opens_with(new) == SECRETS
    assert await installation.opens_with(old) == 0
    assert not installation.place.old.exists()
    assert installation.place.path.stat().st_mode & 0o777 == 0o600
    await installation.serves()
    assert await installation.rotate() == Rotated(SECRETS, finished_earlier=False)
    await installation.serves()


class Killed(BaseException):
    """The process is no more: nothing of it catches this and goes on."""


def _dying(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[str]:
    """Die before the moment-th of all effects on files and database, which are written to the returned list."""
    effects: list[str] = []

    def around(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*args: Any, **more: Any) -> Any:
            effects.append(name)
            if len(effects) == moment:
                raise Killed
            return real(*args, **more)

        return effect

    for owner, name in ((os, "fsync"), (os, "fchown"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, around(name, getattr(owner, name)))
    for name in ("do_begin", "do_execute", "do_executemany", "do_commit"):
        for dialect in (PGDialect_asyncpg, SQLiteDialect_aiosqlite):
            monkeypatch.setattr(dialect, name, around(name, getattr(dialect, name)))
    return effects


async def test_a_kill_at_any_moment_leaves_an_installation_that_serves_and_a_rotation_that_can_be_finished(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(tmp_path, database_url)
    await installation.fill()
    seen: set[int] = set()
    moment = 0
    while True:
        moment += 1
        old = keys.load(installation.place)[-1]
        with monkeypatch.context() as patch:
            effects = _dying(patch, moment)
            try:
                await installation.rotate()
                break
            except Killed:
                pass
        left = installation.place.path.read_bytes()
        seen.add(len(left))
        with_old = await installation.opens_with(old)
        assert with_old in (0, SECRETS)  # all or nothing
        assert old in left or with_old == 0
        await installation.serves()
        begun = len(left) == 64
        assert await installation.rotate() == Rotated(SECRETS, finished_earlier=begun)
        assert await installation.opens_with(installation.place.path.read_bytes()) == SECRETS
        assert installation.key_files() == [KEY_FILE]
    assert seen == {32, 64}  # before and after both keys were in the file
    assert {"fsync", "replace", "unlink", "do_commit"} <= set(effects)
    assert moment > 20


async def test_a_secret_that_does_not_open_stops_the_rotation_before_anything_is_changed(
    installation: Installation,
) -> None:
    before = await installation.sealed()
    installation.place.path.write_bytes(b"another key, from another backup")
    with pytest.raises(SealBroken):
        await installation.rotate()
    assert installation.place.path.read_bytes() == b"another key, from another backup"
    assert not installation.place.old.exists()
    assert await installation.sealed() == before


async def test_a_key_that_systemd_hands_over_is_rotated_in_its_source(installation: Installation) -> None:
    old = installation.place.path.read_bytes()
    credential = installation.place = KeyPlace(installation.directory / keys.CREDENTIAL, given=True)
    credential.path.write_bytes(old)
    before = await installation.sealed()
    with pytest.raises(CredentialFixed, match="put 32 random bytes before the old key"):
        await installation.rotate()
    assert await installation.sealed() == before
    new = os.urandom(32)
    credential.path.write_bytes(new + old)
    assert await installation.rotate() == Rotated(SECRETS, finished_earlier=True)
    assert credential.path.read_bytes() == new + old
    assert await installation.opens_with(new) == SECRETS
    credential.path.write_bytes(new)
    await installation.serves()


async def test_no_key_is_rotated_under_a_coordinator(installation: Installation) -> None:
    key = installation.place.path.read_bytes()
    if installation.url.startswith("sqlite"):
        with alone(installation.url), pytest.raises(AnotherCoordinator):
            await installation.rotate()
    else:
        async with reopened(installation.directory, installation.url) as store:
            await store.members.beat({})
            with pytest.raises(StillRunning, match="stop all of them"):
                await installation.rotate()
            await store.members.leave()
    assert installation.place.path.read_bytes() == key
    await installation.rotate()


async def test_where_there_is_nothing_to_rotate_it_is_said(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hostler.db"
    with pytest.raises(KeyFileUnusable, match="No such file"):
        await rotation.rotate(url, KeyPlace(tmp_path / KEY_FILE))
    (key,) = keys.load_or_make(KeyPlace(tmp_path / KEY_FILE))
    with pytest.raises(DatabaseUnusable, match="start the coordinator once"):
        await rotation.rotate(url, KeyPlace(tmp_path / KEY_FILE))
    assert keys.load(KeyPlace(tmp_path / KEY_FILE)) == [key]


# --- the program ---


def _coordinator(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "coordinator.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_the_program_rotates_and_says_what_to_do_next(tmp_path: Path) -> None:
    installation = Installation(tmp_path, f"sqlite:///{tmp_path}/hostler.db")
    await installation.fill()
    file = tmp_path / "coordinator.toml"
    elsewhere = tmp_path / "keys" / "sealing"
    elsewhere.parent.mkdir()
    installation.place.path.rename(elsewhere)
    file.write_text(f'data_dir = "{tmp_path}"\n[secrets]\nkey_file = "{elsewhere}"\n')
    old = elsewhere.read_bytes()
    ended = _coordinator("rotate-key", "--config", str(file))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        f"made a new key: {SECRETS} secrets are sealed with the new key\n"
        f"Back up {elsewhere} together with the database.\n"
    )
    assert elsewhere.read_bytes() != old
    assert not (tmp_path / KEY_FILE).exists()
    installation.place = KeyPlace(elsewhere)
    await installation.serves()
    with alone(installation.url):
        refused = _coordinator("rotate-key", "--config", str(file))
    assert refused.returncode == 1
    assert "another coordinator uses this SQLite database" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
