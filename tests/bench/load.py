"""The load generator, a program of its own: sends prebuilt requests over a few connections, one at a time on each.

It imports little and does little between two requests, so that it is not what limits the rate.
"""

import asyncio
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Final

import msgspec

_LONGEST_SECONDS: Final = 60.0


class Load(msgspec.Struct, frozen=True):
    port: int
    requests_file: str  # msgpack: a list of requests
    connections: int


class Loaded(msgspec.Struct, frozen=True):
    requests: int
    seconds: float
    latencies_ms: list[float]
    statuses: dict[int, int]
    generator_cpu: float  # share of a core that the generator itself used

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Connection(asyncio.Protocol):
    """Takes the next request as soon as the answer to the one before is whole."""

    def __init__(self, waiting: deque[bytes], latencies: list[float], statuses: Counter[int]) -> None:
        self._waiting = waiting
        self._latencies = latencies
        self._statuses = statuses
        self._got = b""
        self._sent_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def go_on(self) -> None:
        if not self._waiting:
            self.done.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(self._waiting.popleft())

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end or len(body) < length(head):
            return
        self._latencies.append((time.perf_counter() - self._sent_at) * 1000)
        self._statuses[status(head)] += 1
        self._got = b""
        self.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionResetError("the server closed a connection in use"))


def status(head: bytes) -> int:
    return int(head[9:12])


def length(head: bytes) -> int:
    """Of the body that follows. Our answers carry Content-Length or have no body."""
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def run(load: Load, waiting: deque[bytes]) -> Loaded:
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(waiting, latencies, statuses), "127.0.0.1", load.port))[1]
        for _ in range(load.connections)
    ]
    began, cpu = time.perf_counter(), time.process_time()
    for connection in connections:
        connection.go_on()
    async with asyncio.timeout(_LONGEST_SECONDS):
        await asyncio.gather(*(connection.done for connection in connections))
    seconds = time.perf_counter() - began
    return Loaded(len(latencies), seconds, latencies, dict(statuses), (time.process_time() - cpu) / seconds)


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    requests = msgspec.msgpack.decode(Path(load.requests_file).read_bytes(), type=list[bytes])
    loaded = asyncio.run(run(load, deque(requests)))
    sys.stdout.buffer.write(msgspec.json.encode(loaded))


if __name__ == "__main__":
    main()
