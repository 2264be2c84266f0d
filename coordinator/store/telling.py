"""What coordinators on one PostgreSQL tell each other: changes as the payloads of notifications."""

from typing import Final

import msgspec

from coordinator.store.changed import Changes

CHANNEL: Final = "hostler_changes"

_BYTES: Final = 7000
"""Of ids in one payload: PostgreSQL takes payloads below 8000 bytes."""

_PAYLOADS: Final = 20
_KINDS: Final = ("jobs", "instances", "hosts", "configured", "revoked", "declared")


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """One notification."""

    sender: str
    changes: Changes = msgspec.field(default_factory=Changes)
    lease: bool = False  # the planning lease is free


def encode(told: Told) -> str:
    return msgspec.json.encode(told).decode()


def decode(payload: str) -> Told:
    """Raises msgspec.MsgspecError: it is of a coordinator that speaks otherwise."""
    return msgspec.json.decode(payload, type=Told)


def split(changes: Changes) -> list[Changes]:
    """In pieces that a notification can hold; where they were too many, one that says that anything may be changed."""
    pieces = [Changes(catalog=changes.catalog, everything=changes.everything)]
    size = 0
    for kind in _KINDS:
        for one in sorted(changes.jobs | changes.arrived.keys() if kind == "jobs" else getattr(changes, kind)):
            length = len(msgspec.json.encode(one)) + 1
            if size + length > _BYTES:
                pieces.append(Changes())
                size = 0
            getattr(pieces[-1], kind).add(one)
            size += length
    return pieces if len(pieces) <= _PAYLOADS else [Changes(everything=True)]
