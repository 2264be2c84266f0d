"""An agent at the wire level: speaks `Fleet.Session`, has no machines, and leaves what to answer to the benchmark."""

import asyncio
import time
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import grpc

from hostler import __version__
from protos.hostler.v1 import fleet_pb2 as pb
from protos.hostler.v1.fleet_pb2_grpc import FleetStub
from tests.bench.fleet import DRIVER, IMAGE
from tests.bench.results import BenchmarkFailed
from tests.bench.site import CHANNEL_OPTIONS

WIDE: Final = pb.Resources(vcpus=100_000, memory_mib=2**30, disk_gib=2**20)
NO_ROOM: Final = pb.Resources(vcpus=1, memory_mib=512, disk_gib=1)
_COMMAND_SECONDS: Final = 30.0


class Created(NamedTuple):
    at: float  # time.perf_counter() when it had arrived
    command: pb.CreateInstance


class WireAgent:
    """`async with WireAgent(address, …)`: connected and welcomed within the block."""

    def __init__(self, address: str, host: str = "host-1", capacity: pb.Resources = WIDE) -> None:
        self._address = address
        self._host = host
        self._capacity = capacity
        self._creates: asyncio.Queue[Created] = asyncio.Queue()
        self._deletes: asyncio.Queue[pb.DeleteInstance] = asyncio.Queue()
        self._outgoing: asyncio.Queue[pb.AgentMessage] = asyncio.Queue()
        self._sequence = 0
        self._acknowledged = 0
        self._ack = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        call: Any = FleetStub(self._channel).Session()
        await call.write(pb.AgentMessage(hello=self._hello()))
        welcome = await call.read()
        if welcome is grpc.aio.EOF or not welcome.HasField("welcome"):
            raise BenchmarkFailed(f"the coordinator did not welcome {self._host}")
        beat = self._beat(welcome.welcome.heartbeat_seconds)
        self._tasks = [asyncio.create_task(work) for work in (self._read(call), self._write(call), beat)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def next_create(self) -> Created:
        async with asyncio.timeout(_COMMAND_SECONDS):
            return await self._creates.get()

    @property
    def creates_waiting(self) -> int:
        """That have arrived and were not asked for."""
        return self._creates.qsize()

    async def next_delete(self) -> pb.DeleteInstance:
        async with asyncio.timeout(_COMMAND_SECONDS):
            return await self._deletes.get()

    def report(self, instance_id: str, generation: int, *phases: pb.Phase.ValueType) -> None:
        """Put phases on their way."""
        for phase in phases:
            self._sequence += 1
            event = pb.InstanceEvent(
                sequence=self._sequence, instance_id=instance_id, generation=generation, phase=phase
            )
            event.at.GetCurrentTime()
            self._outgoing.put_nowait(pb.AgentMessage(event=event))

    async def all_acknowledged(self) -> None:
        """Everything reported is committed by the coordinator."""
        async with asyncio.timeout(_COMMAND_SECONDS):
            while self._acknowledged < self._sequence:
                self._ack.clear()
                await self._ack.wait()

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            host=self._host,
            agent_version=__version__,
            arch="amd64",
            capacity=self._capacity,
            drivers=[pb.Driver(name=DRIVER, acceleration="none", images=[IMAGE])],
        )

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            match message.WhichOneof("message"):
                case "create_instance":
                    self._creates.put_nowait(Created(time.perf_counter(), message.create_instance))
                case "delete_instance":
                    self._deletes.put_nowait(message.delete_instance)
                case "event_ack":
                    self._acknowledged = message.event_ack.sequence
                    self._ack.set()

    async def _write(self, call: Any) -> None:
        while True:
            await call.write(await self._outgoing.get())

    async def _beat(self, seconds: int) -> None:
        while True:
            await asyncio.sleep(seconds)
            self._outgoing.put_nowait(pb.AgentMessage(heartbeat=pb.Heartbeat(load=0.1, memory_available_mib=1024)))
