"""First run, login, and who a bearer token speaks for."""

import re
from collections.abc import Callable
from typing import Final

import structlog

from coordinator.accounts.passwords import Passwords
from coordinator.accounts.roles import Actor, Role
from coordinator.accounts.sessions import Sessions
from coordinator.pki.attempts import Attempts, TooManyAttempts, Tried
from coordinator.store.store import Store
from coordinator.store.users import AlreadyInitialized, User
from coordinator.tokens import TokenInvalid
from hostler import tickets
from hostler.errors import HostlerError
from hostler.tickets import Kind

log = structlog.get_logger()

_USERNAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EMAIL: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")
_LONGEST_NAME: Final = 200
_BY_ADDRESS: Final = 10
_CHECK: Final = "user name and the password"
_BY_USER: Final = 30  # more, so that one who guesses does not easily lock the user out


class UserInvalid(HostlerError):
    """A user cannot be as described."""

    code = "user_invalid"


class LoginRefused(HostlerError):
    """Unknown user, wrong password, or disabled: which, is not said."""

    code = "login_refused"


class Accounts:
    def __init__(self, store: Store, sessions: Sessions, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._sessions = sessions
        self._passwords = Passwords()
        self._by_address = Attempts(monotonic, _BY_ADDRESS, Tried("logins from this address failed", _CHECK))
        self._by_user = Attempts(monotonic, _BY_USER, Tried("logins as this user failed", _CHECK))
        self._initialized = False

    async def initialized(self) -> bool:
        """Whether there is a user. There is no way back."""
        self._initialized = self._initialized or await self._store.users.any()
        return self._initialized

    async def first_run(self, username: str, email: str, full_name: str, password: str) -> User:
        """
        Raises:
            AlreadyInitialized, UserInvalid, PasswordWeak, TooBusy: nobody was made.
        """
        if await self.initialized():  # before any work is done for a stranger
            raise AlreadyInitialized("there is an administrator already", hint="log in instead")
        return await self._add(username, email, full_name, Role.ADMIN, password, first=True)

    async def add(self, username: str, email: str, full_name: str, role: Role, password: str) -> User:
        """
        Raises:
            UserNameTaken, UserInvalid, PasswordWeak, TooBusy: nobody was made.
        """
        return await self._add(username, email, full_name, role, password, first=False)

    async def _add(self, username: str, email: str, full_name: str, role: Role, password: str, *, first: bool) -> User:
        if not _USERNAME.fullmatch(username):
            raise UserInvalid("username: must be 1 to 64 letters, digits, '.', '_' and '-', no mark first")
        if not _EMAIL.fullmatch(email):
            raise UserInvalid("email: must be an address: NAME@DOMAIN")
        if len(full_name) > _LONGEST_NAME:
            raise UserInvalid(f"full_name: must have at most {_LONGEST_NAME} characters")
        hashed = await self._passwords.hashed(password, [username, email, full_name])
        return await self._store.users.add(username, email, full_name, role, hashed, first=first)

    async def change(
        self, user_id: str, *, role: Role | None = None, enabled: bool | None = None, password: str | None = None
    ) -> User:
        """
        Raises:
            NoSuchUser, LastAdmin, PasswordWeak, TooBusy: nothing was changed.
        """
        hashed = None
        if password is not None:
            user = await self._store.users.get(user_id)
            about = [user.username, user.email, user.full_name] if user else []
            hashed = await self._passwords.hashed(password, about)
        return await self._store.users.change(user_id, role=role, enabled=enabled, password_hash=hashed)

    async def login(self, username: str, password: str, address: str) -> str:
        """A session's token.

        Args:
            address: whence; too many failures from there, or for one user from anywhere, and nothing is looked at.

        Raises:
            LoginRefused, TooManyAttempts, TooBusy: see there.
        """
        peer, user_peer = _as_peer(address), f"user:{username[:64]}:0"
        self._by_address.check(peer)
        self._by_user.check(user_peer)
        # Counted before the password is looked at: those that are looked at side by side count as well.
        self._by_address.failed(peer)
        self._by_user.failed(user_peer)
        found = await self._store.users.called(username)
        user, kept = found or (None, None)
        if not await self._passwords.fits(password, kept) or user is None or not user.enabled:
            log.warning("a login was refused", address=address)
            raise LoginRefused("user or password is wrong")
        self._by_address.forgive(peer)
        self._by_user.forgive(user_peer)
        is_admin = user.role is Role.ADMIN
        return self._sessions.mint(user.id, user.generation, full_name=user.full_name, is_admin=is_admin)

    async def who(self, bearer: str) -> Actor:
        """Whose token it is: a session's, or one that was made for programs.

        Failures are not counted: nobody guesses 128 random bits, and a client whose token has ended must not keep
        others at its address from logging in.

        Raises:
            TokenInvalid: it opens nothing.
        """
        if bearer.startswith(f"{Kind.ADMIN}_"):
            return await self._program(bearer)
        session = self._sessions.read(bearer)
        user = await self._store.users.get(session.user_id)
        if user is None or not user.enabled or user.generation != session.generation:
            raise TokenInvalid("the user has changed since: log in again")
        return Actor(f"user:{user.username}", user.role, "rest")

    async def _program(self, bearer: str) -> Actor:
        try:
            digest = tickets.digest(tickets.check(Kind.ADMIN, bearer))
        except tickets.TicketMistyped as error:
            raise TokenInvalid(str(error)) from None
        token = await self._store.admin_tokens.find(digest)
        if token is None or token.expires_at <= self._store.now():
            raise TokenInvalid("the token was revoked or has expired")
        return Actor(f"token:{token.name}", token.role, "rest")

    def metrics_token(self) -> str:
        return self._sessions.mint_for_metrics()


def _as_peer(address: str) -> str:
    """As gRPC spells it, which is what attempts are counted by."""
    return f"ipv6:[{address}]:0" if ":" in address else f"ipv4:{address}:0"


__all__ = ["Accounts", "LoginRefused", "TooManyAttempts", "UserInvalid"]
