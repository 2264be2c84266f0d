"""Where the sealing key is looked for, and which files are refused."""

import os
import stat
from pathlib import Path

import pytest

from coordinator.store import keys
from coordinator.store.keys import CREDENTIAL, KEY_FILE, KeyFileUnusable, KeyPlace


def test_the_configured_file_wins_then_the_credential_then_the_file_in_the_data_directory(tmp_path: Path) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    beside = KeyPlace(tmp_path / KEY_FILE)
    assert keys.find(tmp_path, "", {}) == beside
    assert keys.find(tmp_path, "", environment) == beside  # systemd hands over others, but not this one
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / CREDENTIAL).write_bytes(b"x" * 32)
    assert keys.find(tmp_path, "", environment) == KeyPlace(tmp_path / "credentials" / CREDENTIAL, given=True)
    assert keys.find(tmp_path, "/run/key", environment) == KeyPlace(Path("/run/key"))


def test_a_credential_is_taken_as_systemd_gives_it_and_never_made(tmp_path: Path) -> None:
    place = KeyPlace(tmp_path / CREDENTIAL, given=True)
    with pytest.raises(KeyFileUnusable):
        keys.load_or_make(place)
    place.path.write_bytes(b"a" * 32 + b"b" * 32)
    place.path.chmod(0o440)  # with access lists the mode shows the mask, not the group's right
    assert keys.load_or_make(place) == [b"a" * 32, b"b" * 32]


def test_where_there_is_no_key_none_is_made_for_an_installation_that_must_have_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileUnusable, match="No such file"):
        keys.load(KeyPlace(tmp_path / KEY_FILE))
    assert not any(tmp_path.iterdir())


def test_a_written_key_file_is_whole_private_and_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    path.write_bytes(b"a" * 32)
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 4242, 4343)
    owner = path.stat()
    (tmp_path / f"{KEY_FILE}.new").write_bytes(b"what a crash has left, readable to all")
    keys.write(path, [b"b" * 32, b"a" * 32], like=path)
    now = path.stat()
    assert path.read_bytes() == b"b" * 32 + b"a" * 32
    assert stat.S_IMODE(now.st_mode) == 0o600
    assert (now.st_uid, now.st_gid) == (owner.st_uid, owner.st_gid)
    assert [entry.name for entry in tmp_path.iterdir()] == [KEY_FILE]


def test_a_file_that_cannot_be_written_is_said_for_people(tmp_path: Path) -> None:
    with pytest.raises(KeyFileUnusable, match=r"secrets\.key_file"):
        keys.write(tmp_path / "nowhere" / KEY_FILE, [b"a" * 32], like=tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(KeyFileUnusable, match="folder"):
        keys.remove(tmp_path / "folder")
