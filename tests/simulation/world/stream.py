"""The stream between an agent and the coordinator, without a network: two queues with a delay, which can be cut."""

import asyncio
import random
from typing import Any, Final, NoReturn

from coordinator.fleet.service import FleetService
from protos.hostler.v1 import fleet_pb2 as pb
from tests.simulation.world.life import Life

_LONGEST_DELAY: Final = 0.02
_END: Final = object()


class AbortedError(Exception):
    """The coordinator refused the stream."""


class Pipe:
    """One direction: messages arrive in their order, each a little later, until it is cut."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._last = 0.0
        self.cut = False

    def put(self, message: Any) -> None:
        if self.cut:
            return
        loop = asyncio.get_running_loop()
        self._last = max(self._last, loop.time() + self._chance.uniform(0.0005, _LONGEST_DELAY))
        loop.call_at(self._last, self._arrive, message)

    def _arrive(self, message: Any) -> None:
        if not self.cut or message is _END:
            self._arrived.put_nowait(message)

    def end(self) -> None:
        """What is on its way is lost; the reader notices."""
        self.cut = True
        self._arrived.put_nowait(_END)

    def __aiter__(self) -> "Pipe":
        return self

    async def __anext__(self) -> Any:
        message = await self._arrived.get()
        if message is _END:
            raise StopAsyncIteration
        return message


class _Context:
    """What the service uses of gRPC's own."""

    def __init__(self, down: Pipe) -> None:
        self._down = down

    async def write(self, message: pb.CoordinatorMessage) -> None:
        self._down.put(message)

    async def abort(self, code: Any, details: str) -> NoReturn:
        raise AbortedError(details)


class Stream:
    """An open stream as the agent holds it."""

    def __init__(self, service: FleetService, life: Life, chance: random.Random) -> None:
        self.up, self.down = Pipe(chance), Pipe(chance)
        self._chance = chance
        self._session = life.spawn(self._serve(service))
        self._session.add_done_callback(lambda _: self.down.end())

    async def _serve(self, service: FleetService) -> None:
        try:
            await service.Session(self.up, _Context(self.down))  # type: ignore[arg-type]  # of what it uses, all
        except AbortedError:
            return

    def cut(self, *, silently: bool) -> None:
        """Nothing gets through any more. The ends notice at once, or each by its own keepalive within 20 s."""
        self.up.cut = self.down.cut = True
        loop = asyncio.get_running_loop()
        for notice in (self._session.cancel, self.down.end):
            loop.call_later(self._chance.uniform(0, 20) if silently else 0.0, notice)

    def hang_up(self) -> None:
        """The agent's process ended: the kernel closes its connection."""
        self.up.cut = self.down.cut = True
        self.down.end()
        self._session.cancel()
