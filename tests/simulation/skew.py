"""A proxy on an agent's stream that makes one of its ends speak another version of the wire contract.

The other version is made here from our own descriptors: a newer one has further fields, messages and enum values, an
older one lacks what may have come last. What passes is parsed and written again in that version, and says so in its
greeting.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Final, Self

import grpc.aio
import msgspec
from google.protobuf import message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from hostler import __version__
from protos.hostler.v1 import fleet_pb2

METHOD: Final = "/hostler.v1.Fleet/Session"
FUTURE: Final = 900
_WORD: Final = "from the future"

# What may be missing at the other end besides what messages have grown by: its absence has a meaning for who reads.
_DISPENSABLE: Final = {
    "Hello": {"agent_run"},
    "Machine": {"phases"},
    "Heartbeat": {"disk_available_gib", "pressure"},
    "InstanceEvent": {"error_code"},
    "ConsoleLog": {"truncated"},
    "Welcome": {"heartbeat_seconds"},
    "AgentMessage": {"console_log", "inventory"},
}

Change = Callable[[Any], Iterable[Any]]


class Vocabulary(msgspec.Struct, frozen=True):
    up: Any  # the class of AgentMessage
    down: Any


def _made(file: FileDescriptorProto) -> Vocabulary:
    pool = DescriptorPool()
    stamps = FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(stamps)
    pool.Add(stamps)
    pool.Add(file)
    up, down = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"hostler.v1.{name}"))
        for name in ("AgentMessage", "CoordinatorMessage")
    )
    return Vocabulary(up, down)


def _ours() -> FileDescriptorProto:
    file = FileDescriptorProto()
    fleet_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def newer() -> Vocabulary:
    file = _ours()
    for message in file.message_type:
        message.field.add(
            name="future",
            number=FUTURE,
            type=FieldDescriptorProto.TYPE_STRING,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )
        if message.oneof_decl:
            message.field.add(
                name="future_message",
                number=FUTURE + 1,
                type=FieldDescriptorProto.TYPE_MESSAGE,
                type_name=".hostler.v1.FutureMessage",
                label=FieldDescriptorProto.LABEL_OPTIONAL,
                oneof_index=0,
            )
    future = file.message_type.add(name="FutureMessage")
    future.field.add(
        name="what", number=1, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    for enum in file.enum_type:
        enum.value.add(name=f"{enum.name.upper()}_FUTURE", number=FUTURE)
    return _made(file)


def older() -> Vocabulary:
    file = _ours()
    for message in file.message_type:
        missing = young(message) | _DISPENSABLE.get(message.name, set())
        kept = [field for field in message.field if field.name not in missing]
        del message.field[:]
        message.field.extend(kept)
    return _made(file)


def young(message: DescriptorProto) -> set[str]:
    """The fields that a message has grown by: their numbers begin anew, beyond those that it had at first (8 or 16)."""
    numbers = sorted(field.number for field in message.field)
    first = next((number for before, number in pairwise([0, *numbers]) if number > before + 1), None)
    return set() if first is None else {field.name for field in message.field if field.number >= first}


def minor(off: int) -> str:
    """Our version, so many minor releases on."""
    major, own = __version__.split(".")[:2]
    return f"{major}.{int(own) + off}.0" if int(own) + off >= 0 else f"{major}.0.0"


def as_newer(message: Any) -> Iterable[Any]:
    """With what only a newer version says, and then a message of a kind that only it knows."""
    _grow(message)
    _say_version(message, minor(+1))
    for machine in _machines(message):
        machine.state = FUTURE
    yield message
    unknown = type(message)()
    unknown.future_message.what = _WORD
    yield unknown


def as_older(message: Any) -> Iterable[Any]:
    """Without what an older version knows nothing of. A message of which nothing is left was never sent."""
    message.DiscardUnknownFields()
    _say_version(message, minor(-1))
    if message.WhichOneof("message") is not None:
        yield message


def _say_version(message: Any, version: str) -> None:
    kind = message.WhichOneof("message")
    if kind == "hello":
        message.hello.agent_version = version
    elif kind == "welcome":
        message.welcome.coordinator_version = version


def _machines(message: Any) -> list[Any]:
    kind = message.WhichOneof("message")
    if kind == "hello":
        return list(message.hello.inventory.machines)
    return list(message.inventory.machines) if kind == "inventory" else []


def _grow(message: Message) -> None:
    if message.DESCRIPTOR.fields_by_name.get("future"):
        message.future = _WORD  # type: ignore[attr-defined]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                _grow(one)


class SkewProxy:
    """Between an agent, which dials `port`, and the coordinator."""

    def __init__(self, coordinator_port: int, port: int, vocabulary: Vocabulary, up: Change, down: Change) -> None:
        self.port = port
        self._coordinator = f"127.0.0.1:{coordinator_port}"
        self._vocabulary = vocabulary
        self._changes = up, down
        self._server: grpc.aio.Server | None = None
        self.passed = 0

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        handler: Any = grpc.stream_stream_rpc_method_handler(self._session)
        service, method = METHOD.strip("/").split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None

    async def _session(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async with grpc.aio.insecure_channel(self._coordinator) as channel:
            call: Any = channel.stream_stream(METHOD)()
            ways = [
                asyncio.create_task(self._carry(requests, call.write, self._vocabulary.up, self._changes[0])),
                asyncio.create_task(self._carry(call, context.write, self._vocabulary.down, self._changes[1])),
            ]
            try:
                done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in done:
                    way.result()
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
            finally:
                call.cancel()
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, messages: AsyncIterator[bytes], write: Any, kind: Any, change: Change) -> None:
        async for raw in messages:
            self.passed += 1
            for message in change(kind.FromString(raw)):
                await write(message.SerializeToString())


def unchanged(message: Any) -> Iterable[Any]:
    yield message


@asynccontextmanager
async def skewed(
    coordinator_port: int, port: int, vocabulary: Vocabulary, *, up: Change = unchanged, down: Change = unchanged
) -> AsyncIterator[SkewProxy]:
    async with SkewProxy(coordinator_port, port, vocabulary, up, down) as proxy:
        yield proxy
