"""Writes that arrive together share one transaction (group commit), and so do reads."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

import sqlalchemy as sa

from coordinator.store.postgres import DatabaseUnusable

Item = TypeVar("Item")
Result = TypeVar("Result")

_LARGEST = 500
_PARAMETERS = 5000
_IDLE_TURNS = 4
"""Of the loop, with no arrival: a tenth of a millisecond or so, in which a request that is being read gets here."""
_DATABASE_DOWN = (DatabaseUnusable, sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, OSError)


class Batcher(Generic[Item, Result]):
    """Gathers items while a commit is under way and hands them over together.

    Nothing waits for a timer: an item that arrives at rest is written at once.
    """

    def __init__(self, write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._write = write
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Returns when the item is committed; raises what the write raised."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            await self._gather()
            batch, self._waiting = self._waiting[:_LARGEST], self._waiting[_LARGEST:]
            await self._commit(batch)

    async def _gather(self) -> None:
        """Let in what is on its way through the loop already; none that is to come is waited for."""
        gathered, idle = len(self._waiting), 0
        while idle < _IDLE_TURNS and gathered < _LARGEST:
            await asyncio.sleep(0)
            idle = idle + 1 if len(self._waiting) == gathered else 0
            gathered = len(self._waiting)

    async def _commit(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._write([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 (each submitter gets the error)
            if len(batch) > 1 and not isinstance(error, _DATABASE_DOWN):
                # One item that cannot be written must not take the others with it.
                for one in batch:
                    await self._commit([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


def in_parts(things: Sequence[Item]) -> Iterable[Sequence[Item]]:
    """In pieces that a statement can take as parameters."""
    return (things[start : start + _PARAMETERS] for start in range(0, len(things), _PARAMETERS))
