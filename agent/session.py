"""One stream to the coordinator, from Hello to its end. Holds no state that outlives it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, NoReturn, Protocol

import grpc.aio
import structlog

from agent import wire
from agent.dial import Way
from agent.host import Usage
from agent.image_news import ImageNews
from agent.outbox import Outbox
from agent.pressure import Gauge
from hostler import versions
from hostler.errors import HostlerError
from protos.hostler.v1 import fleet_pb2 as pb
from protos.hostler.v1.fleet_pb2_grpc import FleetStub
from providers.contract import InstanceSpec, Phase
from providers.images.values import ImageSource

WELCOME_SECONDS: Final = 20.0
MOST_UNACKNOWLEDGED: Final = 10_000
_GOODBYE_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


class SessionLost(HostlerError):
    """The stream ended or never came to be."""

    code = "session_lost"


class Commands(Protocol):
    """Who carries commands out. All return at once."""

    def create(self, spec: InstanceSpec) -> None: ...
    def delete(self, instance_id: str, generation: int) -> None: ...
    def prefetch(self, source: ImageSource) -> None: ...


class Session:
    def __init__(
        self,
        *,
        way: Way,
        hello: Callable[[], Awaitable[pb.Hello]],
        inventory: Callable[[], Awaitable[pb.Inventory]],
        usage: Callable[[], Awaitable[Usage]],
        gauge: Gauge,
        commands: Commands,
        outbox: Outbox,
        image_news: ImageNews,
        now: Callable[[], datetime],
    ) -> None:
        self._way = way
        self._address = way.address
        self._hello = hello
        self._inventory = inventory
        self._usage = usage
        self._gauge = gauge
        self._commands = commands
        self._outbox = outbox
        self._image_news = image_news
        self._drivers: dict[str, frozenset[str]] = {}
        self._now = now
        self._heartbeat: pb.Heartbeat | None = None  # only the newest is worth sending
        self._look = asyncio.Event()  # the coordinator wants to see what is held
        self._seen: pb.Inventory | None = None
        self._passed_over = False  # a create, on this stream
        self._position = 0
        self._sent_sequence = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Serve one stream until `stop` is set.

        Raises:
            SessionLost: it ended otherwise.
            VersionsApart: the coordinator is too old or too new for this agent.
            ProviderError: there is no inventory to speak of, so nothing was said.
        """
        hello = await self._hello()
        self._drivers = wire.offers(hello)
        async with self._way.channel() as channel:
            call = FleetStub(channel).Session()
            try:
                await self._serve(call, hello, stop)
            except grpc.aio.AioRpcError as error:
                raise SessionLost(f"{self._address}: {error.code().name}: {error.details()}") from error
            except asyncio.InvalidStateError:
                await self._raise_ended(call)
            finally:
                call.cancel()

    async def _serve(self, call: Any, hello: pb.Hello, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait(), name="session stop")
        greeting = asyncio.create_task(self._greet(call, hello), name="session greeting")
        try:
            await asyncio.wait({greeting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if greeting.done():
                await self._converse(call, greeting.result(), stop, stopping)
        finally:
            for task in (stopping, greeting):
                task.cancel()
            await asyncio.gather(stopping, greeting, return_exceptions=True)

    async def _converse(
        self, call: Any, welcome: pb.Welcome, stop: asyncio.Event, stopping: asyncio.Task[bool]
    ) -> None:
        reader = asyncio.create_task(self._read(call), name="session reader")
        writer = asyncio.create_task(self._write(call, stop), name="session writer")
        heart = asyncio.create_task(self._beat(min(max(welcome.heartbeat_seconds, 1), 300)), name="session heartbeat")
        tasks = {reader, writer, heart, asyncio.create_task(self._look_when_asked(), name="session eyes")}
        try:
            done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if stopping in done:
                self._outbox.changed.set()
                await asyncio.wait({writer}, timeout=_GOODBYE_SECONDS)
                await asyncio.wait({reader}, timeout=_GOODBYE_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _greet(self, call: Any, hello: pb.Hello) -> pb.Welcome:
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                await call.write(pb.AgentMessage(hello=hello))
                message = await call.read()
        except TimeoutError:
            raise SessionLost(f"{self._address}: no Welcome within {WELCOME_SECONDS:.0f} s") from None
        if message is grpc.aio.EOF or not message.HasField("welcome"):
            raise SessionLost(f"{self._address}: the coordinator did not begin with Welcome")
        welcome: pb.Welcome = message.welcome
        versions.check(agent=hello.agent_version, coordinator=welcome.coordinator_version)
        _log.info(
            "connected",
            coordinator=self._address,
            version=welcome.coordinator_version,
            controller=welcome.controller_id,
            machines=len(hello.inventory.machines),
        )
        return welcome

    async def _read(self, call: Any) -> NoReturn:
        while (message := await call.read()) is not grpc.aio.EOF:
            self._obey(message)
        raise SessionLost(f"{self._address}: the coordinator closed the stream")

    def _obey(self, message: pb.CoordinatorMessage) -> None:
        match message.WhichOneof("message"):
            case "create_instance":
                self._create(message.create_instance)
            case "delete_instance":
                self._delete(message.delete_instance)
            case "prefetch_image":
                self._prefetch(message.prefetch_image)
            case "event_ack":
                # What was not sent on this stream cannot have been meant.
                self._outbox.acknowledge(min(message.event_ack.sequence, self._sent_sequence))
                self._ask_for_what_was_passed_over()
            case "inventory_request":
                self._look.set()
            case kind:
                _log.warning("message not understood", kind=kind)

    def _create(self, command: pb.CreateInstance) -> None:
        if len(self._outbox) >= MOST_UNACKNOWLEDGED:
            # Each machine adds events: a coordinator that takes none gets no more.
            self._passed_over = True
            _log.warning("create ignored: too many events are not acknowledged", instance=command.instance_id[:80])
            return
        try:
            spec = wire.spec(command, drivers=self._drivers)
        except wire.CommandInvalid as error:
            self._refuse(command.instance_id, command.generation, Phase.FAILED, error)
        else:
            self._commands.create(spec)

    def _ask_for_what_was_passed_over(self) -> None:
        """A coordinator sends a create once a stream, and compares anew what there is at the beginning of the next."""
        if self._passed_over and len(self._outbox) < MOST_UNACKNOWLEDGED:
            raise SessionLost(
                f"{self._address}: creates were ignored for want of acknowledgements, which have come now"
            )

    def _delete(self, command: pb.DeleteInstance) -> None:
        try:
            wire.check_instance_id(command.instance_id)
        except wire.CommandInvalid as error:
            self._refuse(command.instance_id, command.generation, Phase.DELETE_FAILED, error)
        else:
            self._commands.delete(command.instance_id, command.generation)

    def _prefetch(self, command: pb.PrefetchImage) -> None:
        try:
            self._commands.prefetch(wire.source(command.image))
        except wire.CommandInvalid as error:
            _log.warning("command refused", image=command.image.name[:80], error=str(error))

    def _refuse(self, instance_id: str, generation: int, phase: Phase, error: wire.CommandInvalid) -> None:
        _log.warning("command refused", instance=instance_id[:80], error=str(error))
        self._outbox.add_event(
            instance_id, generation, phase, self._now(), detail=str(error), error_code=wire.CommandInvalid.code
        )

    async def _write(self, call: Any, stop: asyncio.Event) -> None:
        """The only one to write: gRPC takes one message at a time, and its flow control is the back-pressure."""
        while True:
            self._outbox.changed.clear()
            message = self._next()
            if message is not None:
                await call.write(message)
            elif stop.is_set():
                await call.done_writing()
                return
            else:
                await self._outbox.changed.wait()

    def _next(self) -> pb.AgentMessage | None:
        if self._heartbeat is not None:
            beat, self._heartbeat = self._heartbeat, None
            return pb.AgentMessage(heartbeat=beat)
        status = self._image_news.take()  # before an event that may follow from it
        if status is not None:
            return pb.AgentMessage(image_report=wire.image_report(status))
        if self._seen is not None:
            seen, self._seen = self._seen, None
            return pb.AgentMessage(inventory=seen)
        entry = self._outbox.after(self._position)
        if entry is None:
            return None
        self._position = entry.position
        self._sent_sequence = max(self._sent_sequence, entry.sequence)
        return entry.message

    async def _beat(self, seconds: int) -> NoReturn:
        loop = asyncio.get_running_loop()
        usage = await self._usage()
        self._gauge.read(usage)
        while True:
            self._heartbeat = wire.heartbeat(usage, self._gauge.pressure)
            self._outbox.changed.set()
            due = loop.time() + seconds
            # Told at once when it has changed whether the host takes machines.
            while True:
                await asyncio.sleep(min(_LOOK_SECONDS, due - loop.time()))
                usage = await self._usage()
                if self._gauge.read(usage) or loop.time() >= due:
                    break

    async def _look_when_asked(self) -> NoReturn:
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                self._seen = await self._inventory()
            except HostlerError as error:  # no answer: the coordinator asks again
                _log.warning("no inventory for the coordinator", error=str(error))
            self._outbox.changed.set()

    async def _raise_ended(self, call: Any) -> NoReturn:
        """gRPC answers a write to an ended call with InvalidStateError; the call knows why it ended."""
        details = ""
        with contextlib.suppress(asyncio.CancelledError):
            details = f"{(await call.code()).name}: {await call.details()}"
        raise SessionLost(f"{self._address}: {details or 'the stream ended'}")
