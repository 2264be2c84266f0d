"""The audit log: written within the transaction whose change it tells of, never changed, never pruned."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.accounts import chain
from coordinator.accounts.chain import Entry, Head, Verdict, Verifier
from coordinator.accounts.roles import acting
from coordinator.store.database import Database
from coordinator.store.schema import audit, audit_head

_PAGE: Final = 1000
_HEAD: Final = 1


class Audit:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self.key = b""  # set when the store is opened

    async def write(
        self,
        connection: AsyncConnection,
        action: str,
        target: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Append an entry, as of whoever acts. Values whose names say that they are secret are masked."""
        row = (await connection.execute(sa.select(audit_head).with_for_update())).first()
        number, last = (row.number + 1, row.last) if row else (1, chain.GENESIS)
        actor = acting.get()
        entry = Entry(number, self._clock(), actor.name, actor.via, action, _plain(target), _json(before), _json(after))
        entry = msgspec.structs.replace(entry, mac=chain.mac(self.key, entry, last))
        await connection.execute(sa.insert(audit).values(msgspec.structs.asdict(entry)))
        head = msgspec.structs.asdict(chain.head(self.key, number, entry.mac))
        if row:
            await connection.execute(sa.update(audit_head).values(head))
        else:
            await connection.execute(sa.insert(audit_head).values(id=_HEAD, **head))

    async def page(self, before: int | None = None, most: int = 100) -> list[Entry]:
        """The newest first; `before`: only entries with smaller numbers."""
        query = sa.select(audit).order_by(audit.c.number.desc()).limit(most)
        if before is not None:
            query = query.where(audit.c.number < before)
        async with self._database.read() as connection:
            return [_entry(row) for row in await connection.execute(query)]

    async def verify(self) -> Verdict:
        """Whether every entry is as it was written, and where it was."""
        verifier = Verifier(self.key)
        after = None
        async with self._database.read() as connection:
            while True:
                query = sa.select(audit).order_by(audit.c.number).limit(_PAGE)
                if after is not None:
                    query = query.where(audit.c.number > after)
                found = [_entry(row) for row in await connection.execute(query)]
                if not found:
                    break
                verifier.take(found)
                after = found[-1].number
            row = (await connection.execute(sa.select(audit_head))).first()
        return verifier.end(Head(row.number, row.last, row.mac) if row else None)


def _entry(row: sa.Row[Any]) -> Entry:
    return Entry(row.number, row.at, row.actor, row.via, row.action, row.target, row.before, row.after, row.mac)


def _json(values: Mapping[str, Any] | None) -> str:
    hidden = chain.masked(dict(values or {}))
    return _plain(msgspec.json.encode(hidden, order="deterministic").decode())


def _plain(text: str) -> str:
    """As the column keeps it: the MAC must be of what is read again."""
    return text.replace("\0", "")
