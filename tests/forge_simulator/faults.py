"""Faults that can be switched on: what happens to webhooks and to REST calls. Chance comes from a seeded generator."""

import random
from typing import Literal

import msgspec


class WebhookFaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Probabilities from 0 to 1, drawn for each delivery on its own.

    `drop`: never sent, and the delivery log does not know of it. `fail`: logged as failed without reaching the
    receiver, so that redelivery finds it. `reorder`: held back until a later delivery has gone out (or
    `reorder_seconds` have passed). `delay`: sent after a delay between 0 and `delay_seconds`.
    """

    drop: float = 0.0
    fail: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    delay_seconds: float = 1.0
    reorder: float = 0.0
    reorder_seconds: float = 5.0

    def __post_init__(self) -> None:
        for field in ("drop", "fail", "duplicate", "delay", "reorder"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise ValueError(f"`{field}` is a probability: give a number from 0 to 1")


class RestFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong at one REST operation (its name in the README; `*` for all).

    `status` is answered instead of the real answer; with none the call is only slow. `after`: the call takes effect
    and only its answer is lost or changed, as when a connection breaks. `hang`: never answered. `times`: how often
    at most.
    """

    operation: str
    status: int | None = None
    retry_after_seconds: int | None = None
    delay_seconds: float = 0.0
    hang: bool = False
    after: bool = False
    probability: float = 1.0
    times: int | None = None

    def __post_init__(self) -> None:
        if self.status is not None and not 400 <= self.status <= 599:
            raise ValueError("`status` of a fault is an error: give a number from 400 to 599")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError("`probability` is a number from 0 to 1")


class FaultSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seed: int = 0
    webhooks: WebhookFaults = WebhookFaults()
    rest: tuple[RestFault, ...] = ()


Fate = Literal["drop", "fail", "send"]


class WebhookFate(msgspec.Struct, frozen=True, kw_only=True):
    fate: Fate
    copies: int
    delay_seconds: float
    held_back: bool


class Faults:
    """The faults now in force. Setting them anew also sets the generator back to the seed."""

    def __init__(self) -> None:
        self.set(FaultSettings())

    @property
    def settings(self) -> FaultSettings:
        return self._settings

    def set(self, settings: FaultSettings) -> None:
        self._settings = settings
        self._random = random.Random(settings.seed)  # noqa: S311 - repeatable faults, not secrets
        self._used = [0] * len(settings.rest)

    def webhook(self) -> WebhookFate:
        faults = self._settings.webhooks
        # Always the same draws in the same order: switching one fault on does not move the others.
        drop, fail, duplicate, delay, how_long, reorder = (self._random.random() for _ in range(6))
        return WebhookFate(
            fate="drop" if drop < faults.drop else "fail" if fail < faults.fail else "send",
            copies=2 if duplicate < faults.duplicate else 1,
            delay_seconds=how_long * faults.delay_seconds if delay < faults.delay else 0.0,
            held_back=reorder < faults.reorder,
        )

    def rest(self, operation: str) -> RestFault | None:
        """Give the first fault that strikes this call, if any."""
        for index, fault in enumerate(self._settings.rest):
            if fault.operation not in {"*", operation}:
                continue
            if fault.times is not None and self._used[index] >= fault.times:
                continue
            if self._random.random() < fault.probability:
                self._used[index] += 1
                return fault
        return None
