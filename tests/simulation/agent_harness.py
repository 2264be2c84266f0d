"""A coordinator's end of the wire for tests of the agent: a real gRPC server that records and sends what it is told."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import grpc.aio

from agent.backoff import Backoff
from agent.config import CapacitySection, CoordinatorSection, HostSection
from agent.daemon import Agent
from agent.with_simulated import SimulatedConfig
from hostler import __version__
from protos.hostler.v1 import fleet_pb2 as pb
from protos.hostler.v1.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from providers.simulated import SimulatedProvider, SimulatedSettings

QUICK = SimulatedSettings(disk_seconds=0, start_seconds=0)
PATIENCE_SECONDS = 10.0


class PlayedCoordinator(FleetServicer):
    """Records all it hears, over all streams. `acks=False`: it hears events and never says so."""

    def __init__(self, *, heartbeat_seconds: int = 30) -> None:
        self.heard: list[pb.AgentMessage] = []
        self.streams = 0
        self.streams_closed_by_agent = 0
        self.acks = True
        self.version = __version__
        self.port = 0
        self._heartbeat_seconds = heartbeat_seconds
        self._server: grpc.aio.Server | None = None
        self._to_send: asyncio.Queue[pb.CoordinatorMessage] = asyncio.Queue()
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.http2.min_ping_interval_without_data_ms", 5000)])
        add_FleetServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None

    async def Session(  # noqa: N802 - the service's own name
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Any
    ) -> AsyncIterator[pb.CoordinatorMessage]:
        self._to_send = asyncio.Queue()
        listener = asyncio.create_task(self._listen(request_iterator))
        try:
            while True:
                sending = asyncio.create_task(self._to_send.get())
                await asyncio.wait({sending, listener}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    sending.cancel()
                    return
                yield sending.result()
        finally:
            listener.cancel()

    async def _listen(self, messages: AsyncIterator[pb.AgentMessage]) -> None:
        async for message in messages:
            if message.HasField("hello"):
                self.streams += 1
                self.say(
                    welcome=pb.Welcome(
                        coordinator_version=self.version, controller_id="c", heartbeat_seconds=self._heartbeat_seconds
                    )
                )
            if message.HasField("event") and self.acks:
                self.say(event_ack=pb.EventAck(sequence=message.event.sequence))
            async with self._news:
                self.heard.append(message)
                self._news.notify_all()
        self.streams_closed_by_agent += 1

    def say(self, **what: Any) -> None:
        self._to_send.put_nowait(pb.CoordinatorMessage(**what))

    def create(self, instance_id: str, generation: int = 1, **changes: Any) -> None:
        self.say(create_instance=create_command(instance_id, generation, **changes))

    def delete(self, instance_id: str, generation: int = 2) -> None:
        self.say(delete_instance=pb.DeleteInstance(instance_id=instance_id, generation=generation))

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until `true` holds; looks each time that something was heard."""
        async with self._news:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._news.wait_for(true)
            except TimeoutError:
                raise AssertionError(f"never came true; heard: {self.story()}") from None

    async def hears(self, instance_id: str, *phases: str, times: int = 1) -> None:
        await self.until(lambda: all(self.phases(instance_id).count(phase) >= times for phase in phases))

    async def hears_hello(self, number: int) -> pb.Hello:
        await self.until(lambda: len(self.hellos()) >= number)
        return self.hellos()[number - 1]

    def hellos(self) -> list[pb.Hello]:
        return [message.hello for message in self.heard if message.HasField("hello")]

    def events(self, instance_id: str = "") -> list[pb.InstanceEvent]:
        found = [message.event for message in self.heard if message.HasField("event")]
        return [event for event in found if instance_id in {"", event.instance_id}]

    def phases(self, instance_id: str) -> list[str]:
        return [_phase(event) for event in self.events(instance_id)]

    def story(self) -> list[str]:
        """All that was heard, each message in a word."""
        return [
            _phase(message.event) if message.HasField("event") else str(message.WhichOneof("message"))
            for message in self.heard
        ]


def _phase(event: pb.InstanceEvent) -> str:
    return pb.Phase.Name(event.phase).removeprefix("PHASE_").lower()


def new_id() -> str:
    return str(uuid.uuid4())


def create_command(instance_id: str, generation: int = 1, **changes: Any) -> pb.CreateInstance:
    command = pb.CreateInstance(
        instance_id=instance_id,
        generation=generation,
        name=f"runner-{instance_id[:8]}",
        driver="simulated",
        image="simulated",
        resources=pb.Resources(vcpus=1, memory_mib=256, disk_gib=1),
        arch="amd64",
        pool_id="pool",
        bootstrap=pb.Bootstrap(
            metadata_url="http://192.0.2.1/m", callback_url="http://192.0.2.1/c", token="secret-token"
        ),
    )
    command.MergeFrom(pb.CreateInstance(**changes))
    return command


def agent_config(data_dir: Path, port: int) -> SimulatedConfig:
    return SimulatedConfig(
        data_dir=str(data_dir),
        host=HostSection(name="build-1"),
        coordinator=CoordinatorSection(address=f"127.0.0.1:{port}"),
        capacity=CapacitySection(reserved_memory_mib=0, reserved_disk_gib=0, low_memory_mib=0, low_disk_gib=0),
        simulated=QUICK,
    )


@asynccontextmanager
async def running_agent(
    data_dir: Path, port: int, provider: SimulatedProvider, *, create_grace_seconds: float = 5.0
) -> AsyncIterator[asyncio.Event]:
    """An agent from start to its orderly stop. Yields the event that stops it."""
    agent = Agent(
        agent_config(data_dir, port),
        provider,
        reconnect=Backoff(first_seconds=0.01, most_seconds=0.05),
        delete_retry=Backoff(first_seconds=0.01, most_seconds=0.02),
        create_grace_seconds=create_grace_seconds,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await task
