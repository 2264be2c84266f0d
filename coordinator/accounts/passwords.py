"""Passwords: how strong they must be, and their argon2id hashes, made in a thread and one at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final, TypeVar, TypeVarTuple

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from hostler.errors import HostlerError

# OWASP's smallest for argon2id: 19 MiB, two passes, one lane. More would show in the coordinator's memory.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_STRONG: Final = 4  # zxcvbn's best score, which GARM asks for
_LONGEST: Final = 72  # what zxcvbn looks at in reasonable time
_MAY_WAIT: Final = 16


R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class PasswordWeak(HostlerError):
    """It would be guessed."""

    code = "password_weak"


class TooBusy(HostlerError):
    """Too many passwords are being looked at."""

    code = "too_busy"
    hint = "try again later"


class Passwords:
    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._here = 0
        # One thread, always the same: each would keep the memory of the hashes that were made in it.
        self._thread = ThreadPoolExecutor(1, "passwords")
        self._decoy = ""

    async def hashed(self, password: str, about: list[str]) -> str:
        """The hash of a new password.

        Args:
            about: what a guesser knows, which makes it weaker.

        Raises:
            PasswordWeak: see there.
        """
        async with self._turn_of_mine():
            await self._apart(_check_strength, password, about)
            return await self._apart(_HASHER.hash, password)

    async def fits(self, password: str, kept: str | None) -> bool:
        """Whether it is the password of a hash. With no hash the answer is no, and takes as long.

        Raises:
            TooBusy: see there.
        """
        async with self._turn_of_mine():
            if kept is None and not self._decoy:
                self._decoy = await self._apart(_HASHER.hash, "a password of nobody")
            right = await self._apart(_verify, kept or self._decoy, password)
        return right and kept is not None

    async def _apart(self, work: Callable[[*Ts], R], *args: *Ts) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args))

    @asynccontextmanager
    async def _turn_of_mine(self) -> AsyncIterator[None]:
        if self._here >= _MAY_WAIT:
            raise TooBusy("too many passwords are being looked at")
        self._here += 1
        try:
            async with self._turn:
                yield
        finally:
            self._here -= 1


def _verify(kept: str, password: str) -> bool:
    try:
        return _HASHER.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False


def _check_strength(password: str, about: list[str]) -> None:
    # Its word lists take 20 MiB, and most coordinators never see a new password.
    from zxcvbn import zxcvbn  # noqa: PLC0415

    if not password or len(password) > _LONGEST:
        raise PasswordWeak(f"the password must have 1 to {_LONGEST} characters")
    found = zxcvbn(password, user_inputs=[word for word in about if word])
    if found["score"] < _STRONG:
        said = found["feedback"]["warning"] or "it would be guessed too soon"
        raise PasswordWeak(f"the password is too weak: {said.rstrip('.')}", hint="use four or more uncommon words")
