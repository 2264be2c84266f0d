"""Tokens that programs and the admin client on other machines prove themselves with. Only their hashes are kept."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from coordinator.accounts.roles import Role
from coordinator.store.audit import Audit
from coordinator.store.database import Database
from coordinator.store.retrying import retried
from coordinator.store.schema import admin_tokens
from hostler.errors import HostlerError


class TokenNameTaken(HostlerError):
    code = "name_taken"


class NoSuchToken(HostlerError):
    code = "token_unknown"


class AdminToken(msgspec.Struct, frozen=True):
    name: str
    made_at: datetime
    expires_at: datetime
    role: Role


class AdminTokens:
    def __init__(
        self, database: Database, audit: Audit, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._new_id = new_id

    @retried
    async def keep(self, name: str, token_hash: str, expires_at: datetime, role: Role = Role.ADMIN) -> None:
        """Keep a new token. One of the same name that has expired gives way.

        Raises:
            TokenNameTaken: there is one of that name.
        """
        now = self._clock()
        async with self._database.write() as connection:
            of_that_name = admin_tokens.c.name == name
            await connection.execute(sa.delete(admin_tokens).where(of_that_name & (admin_tokens.c.expires_at <= now)))
            if (await connection.execute(sa.select(admin_tokens.c.id).where(of_that_name))).first() is not None:
                raise TokenNameTaken(f"there is a token '{name}'", hint=f"hostler token revoke {name}, or another name")
            values: dict[str, Any] = {"id": self._new_id(), "name": name, "token_hash": token_hash, "made_at": now}
            values |= {"expires_at": expires_at, "role": role.value}
            await connection.execute(sa.insert(admin_tokens).values(**values))
            told = {"role": role.value, "expires_at": expires_at}
            await self._audit.write(connection, "created", f"token {name}", after=told)

    async def find(self, token_hash: str) -> AdminToken | None:
        """Also one that has expired; one that was revoked is none."""
        query = sa.select(admin_tokens).where(admin_tokens.c.token_hash == token_hash)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        return _token(row) if row else None

    async def all(self) -> list[AdminToken]:
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(admin_tokens).order_by(admin_tokens.c.name))
            return [_token(row) for row in rows]

    @retried
    async def revoke(self, name: str) -> None:
        """
        Raises:
            NoSuchToken: there is none of that name.
        """
        async with self._database.write() as connection:
            gone = await connection.execute(sa.delete(admin_tokens).where(admin_tokens.c.name == name))
            if not gone.rowcount:
                raise NoSuchToken(f"there is no token '{name}'", hint="see hostler token list")
            await self._audit.write(connection, "removed", f"token {name}")


def _token(row: sa.Row[Any]) -> AdminToken:
    return AdminToken(row.name, row.made_at, row.expires_at, Role(row.role))
