"""The circuits of all cloud providers: fed by every call, asked by the planner and by deletes. In memory only: another
coordinator that takes over learns the same within a few calls."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import structlog

from coordinator.domain.circuit import CLOSED, Circuit, State
from providers.contract import ProviderError
from providers.exec.errors import InstanceExists, InstanceNotFound, RequestInvalid, StillMaking

log = structlog.get_logger()

_LEAST_SECONDS: Final = 0.001
"""So that two clocks which differ by less do not spin."""


class Circuits:
    def __init__(self, clock: Callable[[], datetime], chance: Callable[[], float]) -> None:
        self._clock = clock
        self._chance = chance
        self._circuits: dict[str, Circuit] = {}
        self._trying: set[str] = set()
        self.on_well: Callable[[], None] = lambda: None  # a provider that was left alone may be called again
        self._news = asyncio.Event()  # another one for each change

    def not_closed(self) -> Mapping[str, Circuit]:
        """Those that the planner must know of."""
        return {name: one for name, one in self._circuits.items() if one.open_until is not None}

    def all(self) -> Mapping[str, Circuit]:
        """Of the providers that fail: those that do not are as closed as at the beginning."""
        return self._circuits

    def of(self, name: str) -> Circuit:
        return self._circuits.get(name, CLOSED)

    async def passage(self, name: str) -> None:
        """Wait until the provider may be called. Whoever is let through must call at once, under `watched`."""
        while True:
            now, circuit = self._clock(), self.of(name)
            state = circuit.state(now)
            if state is State.CLOSED:
                return
            if state is State.TRIED and name not in self._trying:
                self._trying.add(name)
                return
            opens = circuit.open_until if state is State.OPEN else None
            await self._until_news((opens - now).total_seconds() if opens is not None else None)

    async def _until_news(self, at_most_seconds: float | None) -> None:
        try:
            async with asyncio.timeout(None if at_most_seconds is None else max(at_most_seconds, _LEAST_SECONDS)):
                await self._news.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Around each call of a provider."""
        try:
            yield
        except (RequestInvalid, StillMaking):  # it was not called
            raise
        except (InstanceExists, InstanceNotFound):
            self._succeeded(name)
            raise
        except ProviderError as error:
            self._failed(name, str(error))
            raise
        else:
            self._succeeded(name)
        finally:
            self._trying.discard(name)
            self._tell()

    def _succeeded(self, name: str) -> None:
        before = self._circuits.pop(name, CLOSED)
        if before.open_until is not None:
            log.info("a provider is well again", provider=name, failures=before.failures)
            self.on_well()

    def _failed(self, name: str, fault: str) -> None:
        before = self.of(name)
        after = self._circuits[name] = before.failed(self._clock(), self._chance(), fault)
        if after.open_until != before.open_until:
            log.warning(
                "a provider is left alone", provider=name, failures=after.failures, until=after.open_until, error=fault
            )
