"""The streams of agents that are open now."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog

from protos.hostler.v1 import fleet_pb2 as pb

log = structlog.get_logger()


class Link:
    """One agent's open stream, as the rest of the coordinator sees it."""

    def __init__(self, host: str, now: datetime) -> None:
        self.host = host
        self.last_heard = now
        self.load = pb.Heartbeat()
        self.closed = asyncio.Event()
        self._outgoing: asyncio.Queue[tuple[pb.CoordinatorMessage, Callable[[], None] | None]] = asyncio.Queue()

    def send(self, message: pb.CoordinatorMessage, sent: Callable[[], None] | None = None) -> None:
        """Put a message on its way; `sent` is called when it is written to the stream."""
        self._outgoing.put_nowait((message, sent))

    async def next(self) -> tuple[pb.CoordinatorMessage, Callable[[], None] | None]:
        return await self._outgoing.get()

    def close(self) -> None:
        self.closed.set()


class Links:
    def __init__(self) -> None:
        self._links: dict[str, Link] = {}

    def open(self, host: str, now: datetime) -> Link:
        """A new stream of a host; an older one of the same host is closed: the agent has opened a new one instead."""
        old = self._links.get(host)
        if old is not None:
            log.warning("host opened a second stream, the first is closed", host=host)
            old.close()
        link = Link(host, now)
        self._links[host] = link
        return link

    def remove(self, link: Link) -> None:
        link.close()
        if self._links.get(link.host) is link:
            del self._links[link.host]

    def get(self, host: str) -> Link | None:
        return self._links.get(host)

    def hosts(self) -> set[str]:
        return set(self._links)

    def close(self) -> None:
        """End every stream: this process goes down, and the agents will come back to its successor."""
        for link in self._links.values():
            link.close()
