"""The coordinators of one installation: who lives, and what is done when one is dead."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store import changed
from coordinator.store.database import Database
from coordinator.store.lease import FOR_EVER, LEASE_SECONDS, Lease
from coordinator.store.retrying import retried
from coordinator.store.schema import coordinators, hosts
from coordinator.store.telling import Told

BEAT_SECONDS: Final = 2.0
LONG_AWAY: Final = timedelta(minutes=1)
"""The shortest lease that a host can have."""
_MICROSECONDS: Final = 1_000_000


class Members:
    """On SQLite there is never another one (`alone.py`), so one beat is for the whole life of the process."""

    def __init__(self, database: Database, lease: Lease, me: str, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._database = database
        self._lease = lease
        self._me = me
        self.alone = database.is_sqlite
        self.reclaimed: frozenset[str] = frozenset()  # hosts of ours that the others took for away, for long

    @retried
    async def beat(self, streams: Mapping[str, int]) -> float:
        """Say that this process lives, and renew or take the planning lease.

        Args:
            streams: the numbers of the streams that it holds, by host; they are claimed anew when it was taken for
                dead. Where that took long, their instances may have ended meanwhile: see `reclaimed`.

        Returns after how many seconds the next beat is due.
        """
        since = time.monotonic()
        reclaimed: set[str] = set()
        async with self._database.write() as connection:
            now = await self._now(connection)
            if await self._here(connection, now):
                reclaimed = await _claim(connection, self._me, streams, self._clock() - LONG_AWAY)
            number, ask_again = await self._lease.hold(connection, now, alone=self.alone)
            if number is not None:
                await self._bury(connection, now, new=number != self._lease.number)
        self._lease.held(number, since, alone=self.alone)
        self.reclaimed = frozenset(reclaimed)
        return min(BEAT_SECONDS, ask_again)

    async def _now(self, connection: AsyncConnection) -> int:
        if self.alone:
            return FOR_EVER  # whatever others have left behind is over
        query = sa.select(sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * _MICROSECONDS, sa.BigInteger))
        return int((await connection.execute(query)).scalar_one())

    async def _here(self, connection: AsyncConnection, now: int) -> bool:
        """Whether the row is new."""
        until = FOR_EVER if self.alone else now + int(LEASE_SECONDS * _MICROSECONDS)
        mine = sa.update(coordinators).where(coordinators.c.id == self._me).values(expires_at=until)
        if (await connection.execute(mine)).rowcount == 1:
            return False
        await connection.execute(sa.insert(coordinators).values(id=self._me, expires_at=until))
        return True

    async def _bury(self, connection: AsyncConnection, now: int, *, new: bool) -> None:
        """Forget the dead, and that they held the streams of hosts.

        `new`: this coordinator begins to plan. For how long a host is away counts anew then: while no coordinator was
        there, or none but the one that has just died, no host could show that it is well.
        """
        dead = (coordinators.c.expires_at <= now) & (coordinators.c.id != self._me)
        buried = (await connection.execute(sa.delete(coordinators).where(dead))).rowcount
        if not buried and not new:
            return
        left = sa.true() if new else hosts.c.coordinator != ""
        orphaned = hosts.c.coordinator.not_in(sa.select(coordinators.c.id))
        await _let_go(connection, left & orphaned, self._clock())

    async def release(self) -> None:
        """Let another one plan, now."""
        async with self._database.write() as connection:
            if await self._lease.release(connection):
                await self._database.tell(connection, Told(self._me, lease=True))

    async def leave(self) -> None:
        """This process ends: it holds no streams any more."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(coordinators).where(coordinators.c.id == self._me))
            await _let_go(connection, hosts.c.coordinator == self._me, self._clock())


async def _claim(connection: AsyncConnection, me: str, streams: Mapping[str, int], before: datetime) -> set[str]:
    """Returns those that were let go before then."""
    ours = hosts.c.coordinator.in_(["", me])
    long_away = sa.select(hosts.c.name).where(hosts.c.coordinator == "", hosts.c.disconnected_at <= before)
    away = set(await connection.scalars(long_away)) & streams.keys()
    for name, stream in sorted(streams.items()):
        here = {"coordinator": me, "stream": stream, "disconnected_at": None}
        claimed = await connection.execute(sa.update(hosts).where(hosts.c.name == name, ours).values(here))
        if claimed.rowcount:
            changed.of(connection).hosts.add(name)
    return away


async def _let_go(connection: AsyncConnection, where: sa.ColumnElement[bool], now: datetime) -> None:
    gone = sa.update(hosts).where(where).values(coordinator="", disconnected_at=now)
    rows = await connection.execute(gone.returning(hosts.c.name))
    changed.of(connection).hosts.update(row.name for row in rows)
