"""How GARM seals secrets in its database.

An envelope is JSON with 32 random bytes and what is sealed; the key is HKDF-SHA256 of the passphrase, with these bytes
as its salt (garm-provider-common, util/seal.go). What is sealed is a chain of packages in the format DARE 2.0, or 1.0
(minio/sio, DARE.md and dare.go). What is no JSON was sealed by an older GARM: AES-256-GCM by the passphrase itself.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hostler.errors import HostlerError

PASSPHRASE_BYTES: Final = 32
_HEADER: Final = 16
_TAG: Final = 16
_V1, _V2 = 0x10, 0x20
_LAST: Final = 0x80  # in the first byte of a nonce, of version 2
_CIPHERS: Final[dict[int, Callable[[bytes], AESGCM | ChaCha20Poly1305]]] = {0: AESGCM, 1: ChaCha20Poly1305}


class NotOpened(HostlerError):
    """A sealed value that the passphrase does not open."""

    code = "not_opened"


class _Envelope(msgspec.Struct, frozen=True):
    nonce: list[int]
    data: bytes


def unseal(sealed: bytes, passphrase: bytes) -> bytes:
    """
    Raises:
        NotOpened: it was sealed by another passphrase, or is damaged.
    """
    try:
        envelope = msgspec.json.decode(sealed, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _opened(AESGCM(passphrase), sealed[:12], sealed[12:], None)
    if len(envelope.nonce) != PASSPHRASE_BYTES or not all(0 <= one <= 255 for one in envelope.nonce):
        raise _damaged()
    key = HKDF(SHA256(), 32, salt=bytes(envelope.nonce), info=None).derive(passphrase)
    return _chain(key, envelope.data)


def _chain(key: bytes, data: bytes) -> bytes:
    found: list[bytes] = []
    first, ended = b"", not data
    while data:
        header = data[:_HEADER]
        end = _HEADER + int.from_bytes(header[2:4], "little") + 1 + _TAG
        if len(data) < end or ended or header[1] not in _CIPHERS:
            raise _damaged()
        first = first or header
        nonce, ended = _nonce(header, first, len(found), is_last=len(data) == end)
        found.append(_opened(_CIPHERS[header[1]](key), nonce, data[_HEADER:end], header[:4]))
        data = data[end:]
    if not ended:
        raise _damaged()
    return b"".join(found)


def _nonce(header: bytes, first: bytes, number: int, *, is_last: bool) -> tuple[bytes, bool]:
    """That a package was sealed with, and whether it is the last one."""
    nonce = header[4:]
    if header[0] == _V1:
        if int.from_bytes(nonce[:4], "little") != number:
            raise _damaged()
        return nonce, is_last
    same = nonce[1:] == first[5:] and (nonce[0] | _LAST) == (first[4] | _LAST)
    if header[0] != _V2 or not same:
        raise _damaged()
    counted = int.from_bytes(nonce[8:], "little") ^ number
    return nonce[:8] + counted.to_bytes(4, "little"), bool(nonce[0] & _LAST)


def _opened(cipher: AESGCM | ChaCha20Poly1305, nonce: bytes, data: bytes, header: bytes | None) -> bytes:
    try:
        return cipher.decrypt(nonce, data, header)
    except (InvalidTag, ValueError):
        raise _damaged() from None


def _damaged() -> NotOpened:
    return NotOpened("the passphrase does not open what is sealed in the database", hint="give the one of its GARM")
