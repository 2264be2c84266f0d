"""The coordinators' own CA: one for all that share a database."""

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from coordinator.store.database import Database
from coordinator.store.migrate import only_one_at_a_time
from coordinator.store.schema import authority
from coordinator.store.sealing import Sealer

Kept = tuple[str, bytes]
"""Its certificate (PEM) and its key, a secret."""


class AuthorityRow:
    def __init__(
        self, database: Database, sealer: Sealer, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._new_id = new_id

    async def load_or_keep(self, make: Callable[[], Kept]) -> Kept:
        """The CA; where there is none yet, what `make` makes."""
        async with self._database.write() as connection:
            await only_one_at_a_time(connection)
            row = (await connection.execute(sa.select(authority))).first()
            if row is not None:
                return row.certificate, self._sealer.open(row.key, f"authority:{row.id}")
            certificate, key = make()
            new = self._new_id()
            sealed = self._sealer.seal(key, f"authority:{new}")
            values = {"id": new, "certificate": certificate, "key": sealed, "created_at": self._clock()}
            await connection.execute(sa.insert(authority).values(**values))
            return certificate, key
