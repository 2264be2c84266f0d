"""Audit entries and the chain they form: each one's MAC covers its content and the MAC before it. Pure.

The key is none that the database holds in the clear, so whoever can write the database alone can make no entry, and a
changed, removed or reordered one is found. The head says how many there are, so that the last ones cannot just be cut.
"""

import hmac
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

GENESIS: Final = "0" * 64
MASK: Final = "***"
_SECRET_WORDS: Final = (
    "password",
    "secret",
    "token",
    "private_key",
    "passphrase",
    "api_key",
    "apikey",
    "passwd",
    "access_key",
)


class Entry(msgspec.Struct, frozen=True):
    number: int  # from 1, without gaps
    at: datetime
    actor: str
    via: str
    action: str
    target: str
    before: str  # JSON, secrets masked
    after: str
    mac: str = ""


class Head(msgspec.Struct, frozen=True):
    """How many entries there are, and the last one's MAC, authenticated together."""

    number: int
    last: str
    mac: str


class Verdict(msgspec.Struct, frozen=True):
    entries: int  # that are as they were written, from the first on
    fault: str = ""  # empty: all of them


def mac(key: bytes, entry: Entry, previous: str) -> str:
    at = entry.at.astimezone(UTC).isoformat(timespec="microseconds")
    content = [
        entry.number,
        at,
        entry.actor,
        entry.via,
        entry.action,
        entry.target,
        entry.before,
        entry.after,
        previous,
    ]
    return hmac.digest(key, msgspec.json.encode(content), "sha256").hex()


def head(key: bytes, number: int, last: str) -> Head:
    return Head(number, last, hmac.digest(key, msgspec.json.encode(["head", number, last]), "sha256").hex())


class Verifier:
    """Takes the entries in their order, then the head; the first fault stands."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._last = GENESIS
        self._count = 0
        self._fault = ""

    def take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if self._fault:
                return
            if entry.number != self._count + 1:
                self._fault = f"entry {self._count + 1} is missing: the next one there is {entry.number}"
            elif not hmac.compare_digest(entry.mac, mac(self._key, entry, self._last)):
                self._fault = f"entry {entry.number} is not as it was written, or not where it was"
            else:
                self._last, self._count = entry.mac, entry.number

    def end(self, found: Head | None) -> Verdict:
        """
        Args:
            found: None: nothing was ever written.
        """
        if not self._fault:
            self._fault = self._at_the_end(found)
        return Verdict(self._count, self._fault)

    def _at_the_end(self, found: Head | None) -> str:
        if found is None:
            return "" if self._count == 0 else "the head of the log is missing"
        if not hmac.compare_digest(found.mac, head(self._key, found.number, found.last).mac):
            return "the head of the log is not as it was written"
        if found.number != self._count:
            return f"the log had {found.number} entries, and {self._count} are there"
        return "" if found.last == self._last else "the last entry is not the one that was written last"


def masked(value: Any) -> Any:
    """The value with everything hidden whose name says that it is secret."""
    if isinstance(value, dict):
        return {
            key: MASK if _is_secret(str(key)) and item not in (None, "") else masked(item)
            for key, item in value.items()
        }
    return [masked(item) for item in value] if isinstance(value, list | tuple) else value


def _is_secret(name: str) -> bool:
    folded = name.lower().replace("-", "_")
    return any(word in folded for word in _SECRET_WORDS)
