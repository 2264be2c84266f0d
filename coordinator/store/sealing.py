"""Secrets at rest: AES-256-GCM, with a key of 32 bytes that `keys.py` reads."""

import secrets
from contextlib import suppress
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hostler.errors import HostlerError

_NONCE_BYTES: Final = 12
_VERSION: Final = b"\x01"


class SealBroken(HostlerError):
    """A secret in the database cannot be opened with this key."""

    code = "seal_broken"
    hint = "the key file must be the one that the database was written with"


class Sealer:
    """Seals and opens secrets. What a secret belongs to is authenticated with it, so that rows cannot be swapped."""

    def __init__(self, key: bytes, *older: bytes) -> None:
        """Seals with `key`, opens with any: while keys are rotated there are two."""
        self._aead = AESGCM(key)
        self._openers = [self._aead, *map(AESGCM, older)]

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
        for opener in self._openers:
            with suppress(InvalidTag):
                return opener.decrypt(nonce, body, belongs_to.encode())
        raise broken
