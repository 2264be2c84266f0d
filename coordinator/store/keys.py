"""Where the key that seals secrets is kept: a systemd credential, a configured file, or a file beside the database.

The file holds one key, or while keys are rotated two: the new one, then the old one.
"""

import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from hostler.errors import HostlerError

KEY_BYTES: Final = 32
KEY_FILE: Final = "secrets.key"
CREDENTIAL: Final = "hostler-key"
_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"


class KeyFileUnusable(HostlerError):
    """The key file cannot be used."""

    code = "key_file_unusable"


class KeyPlace(msgspec.Struct, frozen=True):
    path: Path
    given: bool = False  # systemd put it there: it cannot be written, and systemd guards who may read it

    @property
    def old(self) -> Path:
        """The key file as it was, while keys are rotated."""
        return self.path.with_name(f"{self.path.name}.old")


def find(data_dir: Path, key_file: str, environment: Mapping[str, str]) -> KeyPlace:
    """The configured file; else systemd's credential `hostler-key`, if there is one; else the file in `data_dir`.

    systemd.exec(5), LoadCredential=: credentials are files in `$CREDENTIALS_DIRECTORY`.
    """
    if key_file:
        return KeyPlace(Path(key_file))
    directory = environment.get(_CREDENTIALS, "")
    credential = Path(directory) / CREDENTIAL
    return KeyPlace(credential, given=True) if directory and credential.exists() else KeyPlace(data_dir / KEY_FILE)


def load_or_make(place: KeyPlace) -> list[bytes]:
    """The keys, the one to seal with first; made (mode 0600) where there is none.

    Raises:
        KeyFileUnusable: of a wrong length, others may read it, or it can be neither read nor made.
    """
    try:
        if not place.given and not place.path.exists():
            _make(place.path)
        return _read(place)
    except OSError as error:
        raise _unusable(place.path, error) from error


def load(place: KeyPlace) -> list[bytes]:
    """The keys of an installation that has one.

    Raises:
        KeyFileUnusable: as for `load_or_make`, or there is none.
    """
    try:
        return _read(place)
    except OSError as error:
        raise _unusable(place.path, error) from error


def write(path: Path, keys: Sequence[bytes], like: Path) -> None:
    """Put keys into a file, whole or not at all, with the owner of the file `like`.

    Raises:
        KeyFileUnusable: it cannot be written.
    """
    fresh = path.with_name(f"{path.name}.new")  # one name always: what a crash leaves is overwritten by the next try
    try:
        owner = like.stat()
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(b"".join(keys))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync_directory(path)
    except OSError as error:
        raise _unusable(path, error) from error


def remove(path: Path) -> None:
    """Absent already: fine.

    Raises:
        KeyFileUnusable: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
        _sync_directory(path)
    except OSError as error:
        raise _unusable(path, error) from error


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def _make(path: Path) -> None:
    """Whole or not at all: a crash leaves no half key, and of two processes that start together both use one."""
    # Where another process made it first, its key stays.
    with tempfile.NamedTemporaryFile(dir=path.parent) as file, suppress(FileExistsError):  # mode 0600
        file.write(new_key())
        file.flush()
        os.fsync(file.fileno())
        path.hardlink_to(file.name)


def _read(place: KeyPlace) -> list[bytes]:
    path = place.path
    if not place.given and path.stat().st_mode & 0o077:
        raise KeyFileUnusable(f"{path}: others than its owner may read it", hint=f"chmod 600 {path}")
    content = path.read_bytes()
    if len(content) not in (KEY_BYTES, 2 * KEY_BYTES):
        raise KeyFileUnusable(
            f"{path}: holds {len(content)} bytes instead of {KEY_BYTES} (or {2 * KEY_BYTES}, the new and the old key)",
            hint="restore it from a backup",
        )
    return [content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)]


def _sync_directory(path: Path) -> None:
    """A file's name is on disk when its directory is."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unusable(path: Path, error: OSError) -> KeyFileUnusable:
    return KeyFileUnusable(
        f"{path}: {error.strerror}", hint="the coordinator must own its key file: data_dir or secrets.key_file"
    )
