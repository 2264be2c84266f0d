"""Many agents at the wire level that live on while the coordinator does not: they keep machines and come back.

As real agents do, each comes back after a growing, jittered pause, sends the inventory of what it holds whenever it
connects, and takes a repeated command once.
"""

import asyncio
import random
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import grpc

from agent.link import RECONNECT
from hostler import __version__
from protos.hostler.v1 import fleet_pb2 as pb
from protos.hostler.v1.fleet_pb2_grpc import FleetStub
from tests.bench.fleet import DRIVER, IMAGE
from tests.bench.site import CHANNEL_OPTIONS
from tests.bench.wire_agent import WIDE

_OPTIONS: Final = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
_PHASES: Final = (pb.PHASE_ACCEPTED, pb.PHASE_DISK, pb.PHASE_STARTED)


class Made(NamedTuple):
    """A machine, when its first command had arrived."""

    at: float  # time.monotonic()
    instance_id: str
    host: str
    pool_id: str
    name: str


class Farm:
    """`async with Farm(address, hosts)`: all are connected within the block, at first."""

    def __init__(self, address: str, hosts: int) -> None:
        self._agents = [_Agent(self, address, f"host-{number:03}") for number in range(hosts)]
        self._tasks: list[asyncio.Task[None]] = []
        self.made: list[Made] = []
        self.deleted: list[str] = []  # instance ids
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(agent.run()) for agent in self._agents]
        for agent in self._agents:
            await agent.connected.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_made(self, count: int, seconds: float) -> bool:
        """Whether so many machines were made in time."""
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: len(self.made) >= count)
        except TimeoutError:
            return False
        return True

    async def tell(self) -> None:
        async with self._news:
            self._news.notify_all()


class _Agent:
    def __init__(self, farm: Farm, address: str, host: str) -> None:
        self._farm = farm
        self._address = address
        self._host = host
        self._machines: dict[str, pb.Machine] = {}
        self._sequence = 0
        self._writing = asyncio.Lock()
        self.connected = asyncio.Event()

    async def run(self) -> None:
        chance = random.Random(self._host)  # noqa: S311 - jitter, not a secret
        attempt = 0
        while True:
            with suppress(grpc.aio.AioRpcError):
                async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
                    await self._session(FleetStub(channel).Session())
            attempt = 0 if self.connected.is_set() else attempt + 1
            self.connected.clear()
            await asyncio.sleep(RECONNECT.delay(attempt, chance))

    async def _session(self, call: Any) -> None:
        hello = pb.Hello(
            host=self._host,
            agent_version=__version__,
            arch="amd64",
            capacity=WIDE,
            drivers=[pb.Driver(name=DRIVER, acceleration="none", images=[IMAGE])],
            inventory=pb.Inventory(machines=self._machines.values()),
        )
        await call.write(pb.AgentMessage(hello=hello))
        heart: asyncio.Task[None] | None = None
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                match message.WhichOneof("message"):
                    case "welcome":
                        self.connected.set()
                        heart = asyncio.create_task(self._beat(call, message.welcome.heartbeat_seconds))
                    case "create_instance":
                        await self._create(call, message.create_instance)
                    case "delete_instance":
                        await self._delete(call, message.delete_instance)
        finally:
            if heart is not None:
                heart.cancel()

    async def _beat(self, call: Any, seconds: int) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._say(call, pb.AgentMessage(heartbeat=pb.Heartbeat(load=0.1, memory_available_mib=1024)))

    async def _say(self, call: Any, message: pb.AgentMessage) -> None:
        """A stream takes one message at a time."""
        async with self._writing:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # who reads learns that it has ended
                await call.write(message)

    async def _create(self, call: Any, command: pb.CreateInstance) -> None:
        if command.instance_id in self._machines:
            return
        self._farm.made.append(Made(time.monotonic(), command.instance_id, self._host, command.pool_id, command.name))
        machine = pb.Machine(
            instance_id=command.instance_id,
            generation=command.generation,
            name=command.name,
            state=pb.MACHINE_STATE_RUNNING,
        )
        for phase in _PHASES:
            machine.phases.add(phase=phase).at.GetCurrentTime()
        self._machines[command.instance_id] = machine
        await self._farm.tell()
        for reached in machine.phases:
            await self._report(call, command.instance_id, command.generation, reached.phase)

    async def _delete(self, call: Any, command: pb.DeleteInstance) -> None:
        if self._machines.pop(command.instance_id, None) is not None:
            self._farm.deleted.append(command.instance_id)
        await self._report(call, command.instance_id, command.generation, pb.PHASE_DELETED)

    async def _report(self, call: Any, instance_id: str, generation: int, phase: pb.Phase.ValueType) -> None:
        self._sequence += 1
        event = pb.InstanceEvent(sequence=self._sequence, instance_id=instance_id, generation=generation, phase=phase)
        event.at.GetCurrentTime()
        await self._say(call, pb.AgentMessage(event=event))
