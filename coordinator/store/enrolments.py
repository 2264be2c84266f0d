"""Invitations of hosts, and the enrolments that come of them. Of a token only the hash is kept."""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.store import changed
from coordinator.store.audit import Audit
from coordinator.store.database import Database
from coordinator.store.retrying import retried
from coordinator.store.schema import enrolments, invitations
from hostler.errors import HostlerError

USED: Final = "used"
WITHDRAWN: Final = "withdrawn"
REVOKED: Final = "revoked"
REPLACED: Final = "replaced"

_REMEMBERED: Final = timedelta(days=90)
"""How long an invitation that is over, or an enrolment that has ended, is still told from one that never was."""


class InvitationRefused(HostlerError):
    """A token that opens nothing. The code says which way."""

    code = "invitation_refused"


class InvitationUnknown(InvitationRefused):
    code = "token_unknown"
    hint = "invite the host again: hostler host invite NAME"


class InvitationUsed(InvitationRefused):
    code = "token_used"


class InvitationExpired(InvitationRefused):
    code = "token_expired"


class InvitationForeign(InvitationRefused):
    code = "token_foreign"


class NotEnrolled(HostlerError):
    """There is nothing of the host to revoke."""

    code = "not_enrolled"


class Standing(msgspec.Struct, frozen=True):
    host: str
    ended: str  # empty: it stands
    ended_at: datetime | None


class Had(msgspec.Struct, frozen=True):
    """What a host had that opened something."""

    enrolments: int
    invitations: int

    def __bool__(self) -> bool:
        return bool(self.enrolments or self.invitations)


class Enrolments:
    def __init__(
        self, database: Database, audit: Audit, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._new_id = new_id

    @retried
    async def invite(self, host: str, token_hash: str, expires_at: datetime) -> bool:
        """Keep an invitation. Returns whether the host is enrolled already."""
        now = self._clock()
        async with self._database.write() as connection:
            await _forget_the_old(connection, now - _REMEMBERED)
            values = {"id": self._new_id(), "host": host, "token_hash": token_hash, "expires_at": expires_at}
            await connection.execute(sa.insert(invitations).values(**values))
            await self._audit.write(connection, "invited", f"host {host}", after={"expires_at": expires_at})
            standing = sa.select(sa.func.count()).select_from(enrolments).where(_stands(host))
            return bool((await connection.execute(standing)).scalar_one())

    @retried
    async def enrol(self, host: str, token_hash: str, enrolment: str) -> None:
        """Use an invitation up for a new enrolment. What the host had before is over, its other invitations too.

        Raises:
            InvitationRefused: the token opens nothing, or not this; nothing is changed.
        """
        now = self._clock()
        async with self._database.write() as connection:
            whose = sa.select(invitations.c.host).where(invitations.c.token_hash == token_hash).scalar_subquery()
            # All of the host's, in one order: of two that are used at once one waits for the other.
            known = sa.select(invitations).where(invitations.c.host == whose).order_by(invitations.c.id)
            rows = (await connection.execute(known.with_for_update())).all()
            _check(next((row for row in rows if row.token_hash == token_hash), None), host, now)
            mine = invitations.c.token_hash == token_hash
            await connection.execute(sa.update(invitations).where(mine).values(ended=USED, ended_at=now))
            # Whoever has an older one would take the host's place.
            others = (invitations.c.host == host) & (invitations.c.ended == "")
            await connection.execute(sa.update(invitations).where(others).values(ended=WITHDRAWN, ended_at=now))
            await _end(connection, host, REPLACED, now)
            values = {"id": enrolment, "host": host, "enrolled_at": now}
            await connection.execute(sa.insert(enrolments).values(**values))

    @retried
    async def revoke(self, host: str) -> int:
        """End what the host has, and its open invitations; returns how many those were.

        Raises:
            NotEnrolled: it has neither.
        """
        now = self._clock()
        async with self._database.write() as connection:
            had = await shut_out(connection, host, now)
            if not had:
                raise NotEnrolled(
                    f"the host '{host}' has no certificate and no open invitation",
                    hint="nothing to revoke; an agent on the coordinator's own machine needs neither",
                )
            await self._audit.write(connection, "revoked", f"host {host}")
            return had.invitations

    async def standing(self, enrolment: str) -> Standing | None:
        """Whether certificates of this enrolment still open anything; None: it is not known (any more)."""
        query = sa.select(enrolments).where(enrolments.c.id == enrolment)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        return Standing(row.host, row.ended, row.ended_at) if row else None

    async def ended(self, among: Collection[str]) -> set[str]:
        """Those of these enrolments that do not stand."""
        given = sorted(among)
        standing: set[str] = set()
        async with self._database.read() as connection:
            for start in range(0, len(given), 500):
                some = enrolments.c.id.in_(given[start : start + 500]) & (enrolments.c.ended == "")
                standing.update(await connection.scalars(sa.select(enrolments.c.id).where(some)))
        return set(given) - standing


async def standing_among(connection: AsyncConnection, given: Collection[str]) -> set[str]:
    """Those of these enrolments that stand, until the end of the caller's transaction."""
    known = sa.select(enrolments.c.id).where(enrolments.c.id.in_(sorted(filter(None, given))), enrolments.c.ended == "")
    return set(await connection.scalars(known.order_by(enrolments.c.id).with_for_update(read=True)))


async def shut_out(connection: AsyncConnection, host: str, now: datetime) -> Had:
    """End a host's enrolment and its open invitations, in the caller's transaction; its stream is to be cut then."""
    ended = await _end(connection, host, REVOKED, now)
    is_open = (invitations.c.host == host) & (invitations.c.ended == "") & (invitations.c.expires_at > now)
    withdrawn = await connection.execute(sa.update(invitations).where(is_open).values(ended=WITHDRAWN, ended_at=now))
    return Had(ended, withdrawn.rowcount)


def _check(row: sa.Row[Any] | None, host: str, now: datetime) -> None:
    if row is None:
        raise InvitationUnknown("this token is not known here: it is of another installation, or long over")
    again = f"invite the host again: hostler host invite {row.host}"
    if row.ended == USED:
        raise InvitationUsed(
            f"this token was used at {row.ended_at:%Y-%m-%d %H:%M:%S} UTC, and each is good for one use",
            hint=f"{again}; if it was not you who used it, first: hostler host revoke {row.host}",
        )
    if row.ended == WITHDRAWN:
        raise InvitationUsed(f"this token was withdrawn at {row.ended_at:%Y-%m-%d %H:%M:%S} UTC", hint=again)
    if row.expires_at <= now:
        raise InvitationExpired(f"this token expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC", hint=again)
    if row.host != host:
        raise InvitationForeign(
            f"this token is for the host '{row.host}', and this one is called '{host}'",
            hint=f"set [host] name, or invite this one: hostler host invite {host}",
        )


def _stands(host: str) -> sa.ColumnElement[bool]:
    return (enrolments.c.host == host) & (enrolments.c.ended == "")


async def _end(connection: AsyncConnection, host: str, how: str, now: datetime) -> int:
    rows = await connection.execute(
        sa.update(enrolments).where(_stands(host)).values(ended=how, ended_at=now).returning(enrolments.c.id)
    )
    ended = [row.id for row in rows]
    changed.of(connection).revoked.update(ended)
    return len(ended)


async def _forget_the_old(connection: AsyncConnection, before: datetime) -> None:
    await connection.execute(sa.delete(invitations).where(invitations.c.expires_at < before))
    await connection.execute(sa.delete(enrolments).where(enrolments.c.ended_at < before))
