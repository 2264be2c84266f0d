"""How much of strangers' bodies is held at once: small ones share a budget, large ones come one after the other.

Whose a body is shows only when all of it is there. So anybody can make us hold bodies; how many is for us to say.
How long they may take is said in guarded.py.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from coordinator.http.errors import AnyRequest, ApiError

LARGEST_BODY: Final = 25 * 1024 * 1024  # GitHub sends none that is larger
_MIB: Final = 1024 * 1024
_RETRY_AFTER_SECONDS: Final = 10
_DIGITS: Final = 18


class Bodies:
    """Reads bodies. Real events of jobs have 7 to 40 KiB, so they never wait behind a large one.

    Args:
        small: up to so many bytes a body is a small one.
        small_total: what all small ones under way may hold together.
        large_at_once: how many large ones are held.
        large_waiting: how many more may wait for their turn, unread.
        patience_seconds: and for how long.
    """

    def __init__(
        self,
        *,
        small: int = _MIB // 4,
        small_total: int = 32 * _MIB,
        large_at_once: int = 2,
        large_waiting: int = 16,
        patience_seconds: float = 5.0,
    ) -> None:
        self._small = small
        self._small_total = small_total
        self._turns = asyncio.Semaphore(large_at_once)
        self._may_wait = large_waiting
        self._patience_seconds = patience_seconds
        self._held = 0  # bytes of small ones

    @asynccontextmanager
    async def read(self, request: AnyRequest, length: int) -> AsyncIterator[bytes | bytearray]:
        """The raw body of an announced length, read no further than the limit; it counts until the block ends.

        Raises:
            ApiError: 413 too large; 503 when too much is held already.
        """
        large = length > self._small
        if large:
            await self._turn()
        body: bytes | bytearray = b""
        counted = 0
        try:
            async for part in request.stream():
                body = _with(body, part)
                if len(body) > LARGEST_BODY:
                    raise _too_large()
                if large:
                    continue
                counted += len(part)
                self._held += len(part)
                if len(body) > self._small:  # it had not said so
                    await self._turn_now()
                    large = True
                elif self._held > self._small_total:
                    raise _busy()
            yield body
        finally:
            self._held -= counted
            if large:
                self._turns.release()

    async def _turn(self) -> None:
        if self._may_wait < 1:
            raise _busy()
        self._may_wait -= 1
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._may_wait += 1

    async def _turn_now(self) -> None:
        if self._turns.locked():
            raise _busy()
        await self._turns.acquire()


def announced(request: AnyRequest) -> int:
    """The length that the body is said to have; 0: it is not said.

    Raises:
        ApiError: 413.
    """
    said = request.headers.get("content-length", "")
    if not said.isdecimal():
        return 0
    if len(said) > _DIGITS or int(said) > LARGEST_BODY:
        raise _too_large()
    return int(said)


def _with(body: bytes | bytearray, part: bytes) -> bytes | bytearray:
    """Most bodies come in one part, which is not copied."""
    if not body:
        return part
    whole = body if isinstance(body, bytearray) else bytearray(body)
    whole += part
    return whole


def _too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {LARGEST_BODY} bytes")


def _busy() -> ApiError:
    return ApiError(
        503, "too many bodies are under way; send it again later", headers={"Retry-After": str(_RETRY_AFTER_SECONDS)}
    )
