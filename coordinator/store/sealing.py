"""Secrets at rest: AES-256-GCM with a key from a file that only the coordinator may read."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hostler.errors import HostlerError

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_VERSION: Final = b"\x01"


class SealBroken(HostlerError):
    """A secret in the database cannot be opened with this key."""

    code = "seal_broken"
    hint = "the key file must be the one that the database was written with"


class KeyFileUnusable(HostlerError):
    """The key file cannot be used."""

    code = "key_file_unusable"


class Sealer:
    """Seals and opens secrets. What a secret belongs to is authenticated with it, so that rows cannot be swapped."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, secret: bytes, belongs_to: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._aead.encrypt(nonce, secret, belongs_to.encode())

    def open(self, sealed: bytes, belongs_to: str) -> bytes:
        """The secret.

        Raises:
            SealBroken: another key, another owner, or damaged.
        """
        version, nonce, body = sealed[:1], sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        broken = SealBroken(f"the secret of {belongs_to} cannot be opened")
        if version != _VERSION or len(nonce) != _NONCE_BYTES:
            raise broken
        try:
            return self._aead.decrypt(nonce, body, belongs_to.encode())
        except InvalidTag:
            raise broken from None


def load_or_make_key(path: Path) -> bytes:
    """Read the key, or make it (mode 0600) where there is none.

    Raises:
        KeyFileUnusable: of a wrong length, others may read it, or it can be neither read nor made.
    """
    try:
        if not path.exists():
            _make_key(path)
        return _read_key(path)
    except OSError as error:
        raise KeyFileUnusable(f"{path}: {error.strerror}", hint="the coordinator must own its data_dir") from error


def _make_key(path: Path) -> None:
    """Whole or not at all: a crash leaves no half key, and of two processes that start together both use one."""
    # Where another process made it first, its key stays.
    with tempfile.NamedTemporaryFile(dir=path.parent) as file, suppress(FileExistsError):  # mode 0600
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
        path.hardlink_to(file.name)


def _read_key(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise KeyFileUnusable(f"{path}: others than its owner may read it", hint=f"chmod 600 {path}")
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise KeyFileUnusable(
            f"{path}: holds {len(key)} bytes instead of {_KEY_BYTES}", hint="restore it from a backup"
        )
    return key
