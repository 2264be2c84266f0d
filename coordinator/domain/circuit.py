"""A cloud provider that fails again and again is left alone, and then tried with one call at a time."""

from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from coordinator.domain.cooldown import cooldown

PATIENCE: Final = 5
"""Failures in a row, of whatever call, until a provider is left alone. The creates of a bad pool alone do not come so
far: each is followed by a listing and a delete, which succeed."""


class State(StrEnum):
    CLOSED = "closed"  # it is called as usual
    OPEN = "open"  # it is left alone
    TRIED = "tried"  # one call at a time shows whether it is well again


class Circuit(msgspec.Struct, frozen=True):
    failures: int = 0  # in a row
    open_until: datetime | None = None
    fault: str = ""  # the last one, without secrets

    def state(self, now: datetime) -> State:
        if self.open_until is None:
            return State.CLOSED
        return State.OPEN if now < self.open_until else State.TRIED

    def failed(self, now: datetime, chance: float, fault: str) -> "Circuit":
        """After a failure. Calls that were begun before it was left alone tell nothing new.

        Args:
            chance: uniform in [0, 1).
        """
        if self.state(now) is State.OPEN:
            return self
        failures = self.failures + 1
        until = now + cooldown(failures, chance) if failures >= PATIENCE else None
        return Circuit(failures, until, fault)


CLOSED: Final = Circuit()
"""After a success, whenever that call was begun."""
