"""The planning lease: one coordinator plans at a time, and what another one planned meanwhile is refused.

Its times are the database's: the clocks of hosts need not agree.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store.schema import planning_lease as lease
from hostler.errors import HostlerError

LEASE_SECONDS: Final = 6.0
FOR_EVER: Final = 2**62
_MICROSECONDS: Final = 1_000_000


class LeaseLost(HostlerError):
    """Another coordinator plans now."""

    code = "lease_lost"


class Lease:
    """What this process knows of it. `hold` and `release` are called by `Members`, in its transactions."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._number: int | None = None
        self._held_until = 0.0  # by the monotonic clock
        self._end: asyncio.TimerHandle | None = None
        self.on_change: Callable[[], None] = lambda: None  # it was got or lost

    @property
    def number(self) -> int | None:
        """The fencing number; None when this process does not hold the lease, or cannot know any more that it does."""
        return self._number if time.monotonic() < self._held_until else None

    def check(self, connection: sa.Connection) -> None:
        """Make sure that the transaction is committed only while the lease is held.

        Raises:
            LeaseLost: somebody else has it, or nobody.
        """
        query = sa.select(lease.c.fencing).where(lease.c.id == 1, lease.c.holder == self._me)
        # Who takes the lease over waits for this transaction's end.
        fencing = connection.execute(query.with_for_update(read=True)).scalar()
        if fencing is None or fencing != self._number:
            raise LeaseLost("another coordinator holds the planning lease; nothing was committed")

    async def hold(self, connection: AsyncConnection, now: int, *, alone: bool) -> tuple[int | None, float]:
        """Renew it, or take it when it is free; `alone`: whoever had it is dead.

        Returns the fencing number or None, and after how many seconds to ask again at the latest. `held` is to be
        called with the number when this is committed.
        """
        until = FOR_EVER if alone else now + int(LEASE_SECONDS * _MICROSECONDS)
        if self._number is not None:
            mine = sa.update(lease).where(lease.c.id == 1, lease.c.holder == self._me, lease.c.fencing == self._number)
            if (await connection.execute(mine.values(expires_at=until))).rowcount == 1:
                return self._number, LEASE_SECONDS
        free = sa.true() if alone else (lease.c.expires_at <= now) | (lease.c.holder == self._me)
        take = sa.update(lease).where(lease.c.id == 1, free)
        values = {"holder": self._me, "fencing": lease.c.fencing + 1, "expires_at": until}
        number = (await connection.execute(take.values(values).returning(lease.c.fencing))).scalar()
        if number is not None:
            return int(number), LEASE_SECONDS
        expires_at = (await connection.execute(sa.select(lease.c.expires_at))).scalar_one()
        return None, max(expires_at - now, 0) / _MICROSECONDS

    def held(self, number: int | None, since: float, *, alone: bool) -> None:
        """The transaction that began at `since` (monotonic) is committed."""
        before = self.number
        self._number = number
        self._held_until = float("inf") if alone else since + LEASE_SECONDS
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if number is not None and not alone:
            left = self._held_until - time.monotonic()
            self._end = asyncio.get_running_loop().call_later(left, self.on_change)
        if number != before:
            self.on_change()

    def lose(self) -> None:
        """It turned out that somebody else has it."""
        self._number = None

    async def release(self, connection: AsyncConnection) -> bool:
        """Whether it was ours. From now on this process does not plan, also when the transaction fails."""
        self._number = None
        if self._end is not None:
            self._end.cancel()
        # Not by the number: a beat that was cut off may have got the lease without our knowing.
        mine = sa.update(lease).where(lease.c.id == 1, lease.c.holder == self._me)
        return (await connection.execute(mine.values(holder="", expires_at=0))).rowcount == 1
