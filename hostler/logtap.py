"""The log of this process as it is written, for whoever watches it: lines of JSON in the shape of Go's slog."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, Final

import msgspec

_LONGEST: Final = 1000
_watchers: Final[dict[asyncio.Queue[bytes], asyncio.AbstractEventLoop]] = {}


def tap(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog's, behind those that add level and time; any thread may log."""
    if _watchers:
        line = _line(event)
        for queue, loop in list(_watchers.items()):
            loop.call_soon_threadsafe(_put, queue, line)
    return event


async def lines() -> AsyncIterator[bytes]:
    """From now on, for ever. A watcher that does not read loses lines."""
    queue: asyncio.Queue[bytes] = asyncio.Queue(_LONGEST)
    _watchers[queue] = asyncio.get_running_loop()
    try:
        while True:
            yield await queue.get()
    finally:
        del _watchers[queue]


def _put(queue: asyncio.Queue[bytes], line: bytes) -> None:
    if not queue.full():
        queue.put_nowait(line)


def _line(event: MutableMapping[str, Any]) -> bytes:
    named = {"time": event.get("timestamp"), "level": str(event.get("level", "")).upper(), "msg": event.get("event")}
    more = {key: value for key, value in event.items() if key not in ("timestamp", "level", "event") and key[0] != "_"}
    more.pop("exc_info", None)  # what was raised is in the log itself; here it may hold what it was raised with
    return msgspec.json.encode(named | more, enc_hook=str)
