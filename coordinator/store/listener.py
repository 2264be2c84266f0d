"""Hearing what other coordinators tell: a PostgreSQL connection that does nothing but listen."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from sqlalchemy.engine import URL

from coordinator.store import postgres, telling
from coordinator.store.postgres import DatabaseUnusable
from coordinator.store.telling import Told

log = structlog.get_logger()

_PING_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 3.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0


class Listener:
    """Calls `hear` for each notification of another coordinator.

    `missed` is called whenever it may not have heard everything: with every new connection, and when a notification
    cannot be read.
    """

    def __init__(self, url: URL, me: str, hear: Callable[[Told], None], missed: Callable[[], None]) -> None:
        self._url = url
        self._me = me
        self._hear = hear
        self._missed = missed

    async def run(self) -> None:
        """For ever."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                connection = await postgres.connect(self._url)
            except DatabaseUnusable as error:
                log.warning("cannot listen to the other coordinators", error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                continue
            pause = _FIRST_PAUSE_SECONDS
            try:
                await self._listen(connection)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:  # TimeoutError is one
                log.warning("listening to the other coordinators was cut", error=str(error) or type(error).__name__)
            except Exception:
                log.exception("listening to the other coordinators failed")
                await asyncio.sleep(pause)
            finally:
                connection.terminate()

    async def _listen(self, connection: Any) -> None:
        cut = asyncio.Event()
        connection.add_termination_listener(lambda _: cut.set())
        await connection.add_listener(telling.CHANNEL, self._notified)
        self._missed()
        while not cut.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_PING_SECONDS):
                    await cut.wait()
            # A peer that vanished without a word would be listened to for ever.
            await connection.execute("SELECT 1", timeout=_ANSWER_SECONDS)

    def _notified(self, _connection: Any, _process: int, _channel: str, payload: object) -> None:
        try:
            told = telling.decode(str(payload))
        except msgspec.MsgspecError as error:
            log.warning("a notification cannot be read, so everything is", error=str(error))
            self._missed()
            return
        if told.sender != self._me:
            self._hear(told)
