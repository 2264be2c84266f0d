"""Using the load generator from a benchmark."""

from pathlib import Path

import msgspec

from tests.bench.load import Load, Loaded
from tests.bench.processes import ask
from tests.bench.results import BenchmarkFailed


async def send_all(folder: Path, port: int, requests: list[bytes], connections: int) -> Loaded:
    """Send every request in a process of its own.

    Raises:
        BenchmarkFailed: one was not answered with 200.
    """
    file = folder / "requests.msgpack"
    file.write_bytes(msgspec.msgpack.encode(requests))
    return await send_file(file, port, connections)


async def send_file(file: Path, port: int, connections: int) -> Loaded:
    """As `send_all`, of requests that are in a file already."""
    load = Load(port=port, requests_file=str(file), connections=connections)
    loaded = msgspec.json.decode(await ask("tests.bench.load", msgspec.json.encode(load)), type=Loaded)
    if set(loaded.statuses) != {200}:
        raise BenchmarkFailed(f"not all requests were answered with 200: {loaded.statuses}")
    return loaded
