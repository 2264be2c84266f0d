"""A board made of everything anew, beside the one that is planned on meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable

from coordinator.domain.planner import plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Moment, World
from coordinator.store.changed import Changes


class Renewal:
    """`read` is called once, in a task; what changes from then on is to be given to `noted`."""

    def __init__(
        self, read: Callable[[], Awaitable[World]], moment: Callable[[], Moment], done: Callable[[], None]
    ) -> None:
        """Args: done: called when `board` need not be waited for any more."""
        self._read = read
        self._moment = moment
        self._since = Changes()
        self._task = asyncio.create_task(self._make())
        self._task.add_done_callback(lambda task: None if task.cancelled() else done())

    @property
    def is_done(self) -> bool:
        return self._task.done()

    def noted(self, changes: Changes) -> None:
        """The board may not know of these."""
        self._since.take_in(changes)

    async def board(self) -> tuple[Board, Changes]:
        """When it is done: the board, and what it must still be told. Raises what went wrong."""
        return await self._task, self._since

    def drop(self) -> None:
        self._task.cancel()

    async def _make(self) -> Board:
        world = await self._read()
        return await asyncio.to_thread(warm, world, self._moment())


def warm(world: World, moment: Moment) -> Board:
    """A board whose indexes are made: by a plan that nobody carries out."""
    board = Board.of(world)
    plan_on(board, moment, 1)
    return board
