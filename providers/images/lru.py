"""Which images go when room is needed. Pure."""

from collections.abc import Iterable

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """Something that takes room among the images."""

    name: str
    bytes: int
    last_used: float  # seconds, of any one clock
    in_use: bool


def to_drop(kept: Iterable[Kept], quota_bytes: int, coming_bytes: int = 0) -> list[str]:
    """The least recently used, until `coming_bytes` more fit into the quota; never one in use.

    Where all that may go is not enough, all of it is named.
    """
    everything = list(kept)
    over = sum(one.bytes for one in everything) + coming_bytes - quota_bytes
    dropped = []
    for one in sorted(everything, key=lambda k: (k.last_used, k.name)):
        if over <= 0:
            break
        if not one.in_use:
            dropped.append(one.name)
            over -= one.bytes
    return dropped
