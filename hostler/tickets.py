"""Secrets that people carry from one machine to another: with a prefix that says what for, and a checksum. Pure.

A ticket is `PREFIX_` and 32 characters: 128 random bits and 32 bits of checksum, in lower-case base32 (RFC 4648). So a
mistyped one is told from one that nobody knows, also where it is typed in.
"""

import base64
import binascii
import hashlib
from enum import StrEnum
from typing import Final

from hostler.errors import HostlerError

SECRET_BYTES: Final = 16
_CHECKSUM_BYTES: Final = 4
_LENGTH: Final = 32


class Kind(StrEnum):
    """What a ticket is for, and its prefix."""

    INVITATION = "hostler-invite"
    ADMIN = "hostler-admin"


_NAMES: Final = {Kind.INVITATION: "an invitation of a host", Kind.ADMIN: "a token of the admin client"}


class TicketMistyped(HostlerError):
    """It is none that was ever given out: a character is wrong or missing, or it is for something else."""

    code = "token_mistyped"


def ticket(kind: Kind, secret: bytes) -> str:
    """Args: secret: `SECRET_BYTES` random bytes."""
    return f"{kind}_{base64.b32encode(secret + _checksum(kind, secret)).decode().lower()}"


def check(kind: Kind, text: str) -> str:
    """The ticket without blanks around it.

    Raises:
        TicketMistyped: see there. The text is not shown: it may be nearly right.
    """
    given = text.strip()
    for other in Kind:
        if other is not kind and given.startswith(f"{other}_"):
            raise TicketMistyped(f"this token is {_NAMES[other]}, not {_NAMES[kind]}")
    body = given.removeprefix(f"{kind}_")
    if body == given:
        raise TicketMistyped(f"the token is mistyped: it must begin with '{kind}_'", hint="copy the whole of it")
    if len(body) != _LENGTH:
        raise TicketMistyped(
            f"the token is mistyped: {len(body)} characters after '{kind}_' instead of {_LENGTH}",
            hint="copy the whole of it",
        )
    try:
        raw = base64.b32decode(body.upper())
    except (binascii.Error, ValueError):
        raise TicketMistyped("the token is mistyped: it has characters that no token has") from None
    if raw[SECRET_BYTES:] != _checksum(kind, raw[:SECRET_BYTES]):
        raise TicketMistyped("the token is mistyped: its checksum is wrong", hint="copy it again")
    return f"{kind}_{body.lower()}"


def digest(given: str) -> str:
    """What is kept of a ticket. Its 128 random bits need no salt and no slow hash."""
    return hashlib.sha256(given.encode()).hexdigest()


def _checksum(kind: Kind, secret: bytes) -> bytes:
    return hashlib.sha256(f"{kind}:".encode() + secret).digest()[:_CHECKSUM_BYTES]
