"""Users, who log in with a password."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.accounts.roles import Role
from coordinator.store import changed
from coordinator.store.audit import Audit
from coordinator.store.database import Database
from coordinator.store.migrate import only_one_at_a_time
from coordinator.store.retrying import retried
from coordinator.store.schema import users
from hostler.errors import HostlerError


class AlreadyInitialized(HostlerError):
    """The first run has been."""

    code = "already_initialized"


class UserNameTaken(HostlerError):
    code = "name_taken"


class NoSuchUser(HostlerError):
    code = "user_unknown"


class LastAdmin(HostlerError):
    """Nobody could change anything any more."""

    code = "last_admin"
    hint = "make another enabled user with the role admin first"


class User(msgspec.Struct, frozen=True):
    id: str
    username: str
    email: str
    full_name: str
    role: Role
    enabled: bool
    generation: int
    created_at: datetime
    changed_at: datetime


class Users:
    def __init__(
        self, database: Database, audit: Audit, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._new_id = new_id

    async def any(self) -> bool:
        async with self._database.read() as connection:
            return bool(await connection.scalar(sa.select(sa.exists().where(users.c.id.is_not(None)))))

    @retried
    async def add(
        self, username: str, email: str, full_name: str, role: Role, password_hash: str, *, first: bool = False
    ) -> User:
        """
        Args:
            first: only where there is none yet.

        Raises:
            AlreadyInitialized: there is one already.
            UserNameTaken: there is one of that name.
        """
        now = self._clock()
        async with self._database.write() as connection:
            await only_one_at_a_time(connection)
            if first and (await connection.execute(sa.select(users.c.id).limit(1))).first():
                raise AlreadyInitialized("there is an administrator already", hint="log in instead")
            if (await connection.execute(sa.select(users.c.id).where(users.c.username == username))).first():
                raise UserNameTaken(f"there is a user '{username}'", hint="choose another name")
            user = User(self._new_id(), username, email, full_name, role, True, 0, now, now)
            values = msgspec.structs.asdict(user) | {"password_hash": password_hash, "role": role.value}
            await connection.execute(sa.insert(users).values(**values))
            _note(connection, "created", user.id)
            await self._audit.write(connection, "created", f"user {username}", after=_told(user))
        return user

    async def all(self) -> list[User]:
        async with self._database.read() as connection:
            return [_user(row) for row in await connection.execute(sa.select(users).order_by(users.c.username))]

    async def get(self, user_id: str) -> User | None:
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(users).where(users.c.id == user_id))).first()
        return _user(row) if row else None

    async def called(self, username: str) -> tuple[User, str] | None:
        """With the hash of the password."""
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(users).where(users.c.username == username))).first()
        return (_user(row), row.password_hash) if row else None

    @retried
    async def change(
        self,
        user_id: str,
        *,
        role: Role | None = None,
        enabled: bool | None = None,
        password_hash: str | None = None,
    ) -> User:
        """Every change ends the user's sessions.

        Raises:
            NoSuchUser, LastAdmin: nothing was changed.
        """
        async with self._database.write() as connection:
            await only_one_at_a_time(connection)
            old = await _find(connection, user_id)
            new = msgspec.structs.replace(
                old,
                role=role or old.role,
                enabled=old.enabled if enabled is None else enabled,
                generation=old.generation + 1,
                changed_at=self._clock(),
            )
            if _rules(old) and not _rules(new):
                await _others_rule(connection, old)
            values: dict[str, Any] = msgspec.structs.asdict(new) | {"role": new.role.value}
            if password_hash is not None:
                values["password_hash"] = password_hash
            await connection.execute(sa.update(users).where(users.c.id == user_id).values(**values))
            _note(connection, "updated", user_id)
            after = _told(new) | ({"password": "changed"} if password_hash is not None else {})
            await self._audit.write(connection, "updated", f"user {old.username}", before=_told(old), after=after)
        return new

    @retried
    async def remove(self, user_id: str) -> None:
        """
        Raises:
            NoSuchUser, LastAdmin: nothing was changed.
        """
        async with self._database.write() as connection:
            await only_one_at_a_time(connection)
            old = await _find(connection, user_id)
            if _rules(old):
                await _others_rule(connection, old)
            await connection.execute(sa.delete(users).where(users.c.id == user_id))
            _note(connection, "removed", user_id)
            await self._audit.write(connection, "removed", f"user {old.username}", before=_told(old))


def _note(connection: AsyncConnection, what: str, user_id: str) -> None:
    changed.of(connection).declared.add(changed.said("user", what, user_id))


def _rules(user: User) -> bool:
    return user.enabled and user.role is Role.ADMIN


async def _find(connection: AsyncConnection, user_id: str) -> User:
    row = (await connection.execute(sa.select(users).where(users.c.id == user_id))).first()
    if row is None:
        raise NoSuchUser(f"there is no user with the id '{user_id}'")
    return _user(row)


async def _others_rule(connection: AsyncConnection, but: User) -> None:
    others = (users.c.id != but.id) & users.c.enabled & (users.c.role == Role.ADMIN.value)
    if not await connection.scalar(sa.select(sa.exists().where(others))):
        raise LastAdmin(f"'{but.username}' is the only administrator")


def _user(row: sa.Row[Any]) -> User:
    return User(
        row.id,
        row.username,
        row.email,
        row.full_name,
        Role(row.role),
        row.enabled,
        row.generation,
        row.created_at,
        row.changed_at,
    )


def _told(user: User) -> dict[str, Any]:
    return {"email": user.email, "full_name": user.full_name, "role": user.role.value, "enabled": user.enabled}
