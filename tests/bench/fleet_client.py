"""Thousands of agents in one process, each on its own connection: HTTP/2 and gRPC as far as an idle agent needs them.

`python -m tests.bench.fleet_client PORT AGENTS`: prints `connected N` when all are welcomed, and for each command
`create HOST INSTANCE TIME` (time.monotonic()). Ends on SIGTERM.
HTTP/2: RFC 9113 and, for header fields that are not indexed, RFC 7541; gRPC: doc/PROTOCOL-HTTP2.md in its repository.
"""

import asyncio
import struct
import sys
import time
from typing import Final

from hostler import __version__
from protos.hostler.v1 import fleet_pb2 as pb
from tests.bench.fleet import DRIVER, IMAGE

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK: Final = 1
_END_HEADERS: Final = 4
_STREAM: Final = 1
_WIDE_WINDOW: Final = 2**30  # far more than an idle agent is ever sent, so that it never has to be widened
_INITIAL_WINDOW: Final = 4  # the setting
_CONNECTING: Final = 64  # at once

_FIELDS: Final = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/hostler.v1.Fleet/Session"),
    (b":authority", b"coordinator"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _field(name: bytes, value: bytes) -> bytes:
    """Literal, never indexed, new name; lengths below 127."""
    return b"\x10" + bytes((len(name),)) + name + bytes((len(value),)) + value


def _message(message: pb.AgentMessage) -> bytes:
    body = message.SerializeToString()
    return _frame(_DATA, 0, _STREAM, b"\0" + len(body).to_bytes(4, "big") + body)


_OPENING: Final = b"".join(
    (
        _PREFACE,
        _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, _WIDE_WINDOW)),
        _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WIDE_WINDOW)),
        _frame(_HEADERS, _END_HEADERS, _STREAM, b"".join(_field(*field) for field in _FIELDS)),
    )
)
_HEARTBEAT: Final = _message(pb.AgentMessage(heartbeat=pb.Heartbeat(load=0.1, memory_available_mib=1024)))


class Agent(asyncio.Protocol):
    def __init__(self, host: str) -> None:
        self._host = host
        self._got = bytearray()  # of frames
        self._data = bytearray()  # of messages
        self.welcomed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        hello = pb.Hello(
            host=self._host,
            agent_version=__version__,
            arch="amd64",
            capacity=pb.Resources(vcpus=64, memory_mib=2**18, disk_gib=2**12),
            drivers=[pb.Driver(name=DRIVER, acceleration="none", images=[IMAGE])],
        )
        transport.write(_OPENING + _message(pb.AgentMessage(hello=hello)))

    def data_received(self, data: bytes) -> None:
        self._got += data
        while len(self._got) >= 9:
            end = 9 + int.from_bytes(self._got[:3], "big")
            if len(self._got) < end:
                return
            kind, flags, payload = self._got[3], self._got[4], bytes(self._got[9:end])
            del self._got[:end]
            self._take(kind, flags, payload)

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        if kind in (_PING, _SETTINGS) and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _DATA:
            self._data += payload
            self._messages()
        elif kind in (_RST_STREAM, _GOAWAY):
            raise ConnectionError(f"{self._host}: the coordinator ended the stream: frame {kind}, {payload!r}")

    def _messages(self) -> None:
        while len(self._data) >= 5 and len(self._data) >= (end := 5 + int.from_bytes(self._data[1:5], "big")):
            message = pb.CoordinatorMessage.FromString(bytes(self._data[5:end]))
            at = time.monotonic()
            del self._data[:end]
            if message.HasField("create_instance"):
                _say(f"create {self._host} {message.create_instance.instance_id} {at}")
            elif message.HasField("welcome"):
                self.welcomed.set()
                asyncio.get_running_loop().call_later(message.welcome.heartbeat_seconds, self._beat, message.welcome)

    def _beat(self, welcome: pb.Welcome) -> None:
        self._transport.write(_HEARTBEAT)
        asyncio.get_running_loop().call_later(welcome.heartbeat_seconds, self._beat, welcome)

    def connection_lost(self, error: Exception | None) -> None:
        _say(f"lost {self._host} {error}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def run(port: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(_CONNECTING)
    lasting: set[asyncio.BaseTransport] = set()

    async def connect(number: int) -> None:
        async with slots:
            transport, agent = await loop.create_connection(lambda: Agent(f"host-{number:05}"), "127.0.0.1", port)
            lasting.add(transport)
            await agent.welcomed.wait()

    await asyncio.gather(*(connect(number) for number in range(count)))
    _say(f"connected {count}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), int(sys.argv[2])))
