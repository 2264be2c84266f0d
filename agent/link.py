"""Keeps a session with the coordinator for ever: connect, serve, wait, again."""

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from agent.backoff import Backoff
from hostler.errors import HostlerError

RECONNECT: Final = Backoff(first_seconds=0.2, most_seconds=10.0)
_STEADY_SECONDS: Final = 10.0  # a session that lasted this long proves that the coordinator is well

_log = structlog.get_logger(__name__)


class Runnable(Protocol):
    async def run(self, stop: asyncio.Event) -> None: ...


async def keep(
    session: Callable[[], Runnable],
    stop: asyncio.Event,
    *,
    rng: random.Random,
    monotonic: Callable[[], float],
    backoff: Backoff = RECONNECT,
) -> None:
    """Run sessions one after the other until `stop` is set. An outage touches nothing but this."""
    attempt, told = 0, ""
    while not stop.is_set():
        began = monotonic()
        try:
            await session().run(stop)
        except HostlerError as error:
            if monotonic() - began >= _STEADY_SECONDS:
                attempt, told = 0, ""
            delay = backoff.delay(attempt, rng)
            if str(error) != told:  # an outage of hours is told once, not each ten seconds
                _log.warning("not connected, trying again", error=str(error), first_retry_seconds=round(delay, 2))
                told = str(error)
        except Exception:  # noqa: BLE001 - the loop's edge; logged
            delay = backoff.delay(attempt, rng)
            _log.exception("session failed, trying again")
        else:
            continue
        attempt += 1
        await _wait(stop, delay)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
