"""The streams of agents that are open here now."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Set
from datetime import datetime
from typing import Final

import structlog

from coordinator.store.hosts import Pressure
from hostler.errors import HostlerError
from protos.hostler.v1 import fleet_pb2 as pb

log = structlog.get_logger()


class HostTaken(HostlerError):
    """Another agent serves that host name."""

    code = "host_taken"


class AgentStuck(HostlerError):
    """An agent keeps its stream open and does not read from it."""

    code = "agent_stuck"


class AgentSilent(HostlerError):
    """An agent keeps its stream open and says nothing."""

    code = "agent_silent"


Outgoing = tuple[pb.CoordinatorMessage, Callable[[], None] | None]

MOST_WAITING: Final = 2000
"""Messages for one agent that are not written yet. A host has fewer machines than this, and one command for each."""


class Link:
    """One agent's open stream, as the rest of the coordinator sees it."""

    def __init__(self, host: str, number: int, run: str, now: datetime, enrolment: str = "") -> None:
        self.host = host
        self.number = number  # of this coordinator's streams
        self.run = run  # of the agent's process; empty: it does not say
        self.enrolment = enrolment  # that its certificate comes from; empty: on loopback, without one
        self.last_heard = now
        self.heard_at = float("inf")  # by the loop's clock; since then we listen
        self.is_listening = False  # no message of it is being taken
        self.load = pb.Heartbeat()
        self.images: dict[str, pb.ImageReport] = {}  # the newest of each content, with its progress
        self.short = Pressure()  # as its agent says
        self.strays_to_go: set[str] = set()  # instances that have ended, and whose machines must go before others come
        self.told = Pressure()  # what of both the database has
        self.strays: dict[str, tuple[str, str]] = {}  # instance id to name and why it is kept
        self.looked = asyncio.Event()  # another inventory has come, and is in `inventory`
        self.inventory: frozenset[str] = frozenset()  # instance ids
        self.closed = asyncio.Event()
        self.why: HostlerError | None = None  # it was closed, where the agent must be told
        self._outgoing: deque[Outgoing] = deque()
        self._acknowledged = 0  # still to be said
        self._news = asyncio.Event()

    def send(self, message: pb.CoordinatorMessage, sent: Callable[[], None] | None = None) -> None:
        """Put a message on its way; `sent` is called when it is written to the stream.

        An agent that takes none is cut off rather than kept in memory: what it did not get is sent when it is back.
        """
        if len(self._outgoing) >= MOST_WAITING:
            self.close(AgentStuck(f"the agent of '{self.host}' takes no messages, and {MOST_WAITING} wait for it"))
            return
        self._outgoing.append((message, sent))
        self._news.set()

    def acknowledge(self, sequence: int) -> None:
        """Say that every event up to this one is committed; only the latest of these has to be said, and an agent may
        repeat an older one.
        """
        self._acknowledged = max(self._acknowledged, sequence)
        self._news.set()

    async def next(self) -> Outgoing:
        while True:
            if self._acknowledged:
                sequence, self._acknowledged = self._acknowledged, 0
                return pb.CoordinatorMessage(event_ack=pb.EventAck(sequence=sequence)), None
            if self._outgoing:
                return self._outgoing.popleft()
            self._news.clear()
            await self._news.wait()

    def listen(self, at: float) -> None:
        """What was heard is taken, and the next message may come. `at`: by the loop's clock."""
        self.heard_at, self.is_listening = at, True

    def close(self, why: HostlerError | None = None) -> None:
        self.why = self.why or why
        self.closed.set()


class Links:
    """One stream for each host name. Of two agents with one name the newer is served, here or at another coordinator.

    The older one would come back and be the newer then, and so on for ever, each time with another inventory: it is
    refused for as long as the newer one is there.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._links: dict[str, Link] = {}
        self._elsewhere: set[str] = set()  # hosts that gave their stream up for one at another coordinator
        self._taken_over: dict[str, set[str]] = {}  # host to runs of agents that gave way

    def check(self, host: str, run: str) -> None:
        """Whether an agent may open a stream.

        Raises:
            HostTaken: it gave way to a newer agent of its name, which is still there.
        """
        served = host in self._links or host in self._elsewhere
        if served and run and run in self._taken_over.get(host, ()):
            raise _taken(host)

    def next_number(self) -> int:
        """For a stream that is about to be opened."""
        return next(self._numbers)

    def open(self, host: str, number: int, run: str, now: datetime, enrolment: str = "") -> Link:
        """A new stream of a host; an older one of the same host is closed."""
        old = self._links.get(host)
        if old is not None:
            self._replace(old, run)
        self._elsewhere.discard(host)
        link = Link(host, number, run, now, enrolment)
        self._links[host] = link
        return link

    def move(self, link: Link, run: str) -> None:
        """The host's newer stream is at another coordinator, of an agent's process `run`: this one is closed."""
        if self._links.get(link.host) is link:
            self._elsewhere.add(link.host)
            self._replace(link, run)

    def gone(self, host: str) -> None:
        """No other coordinator has a stream of the host any more."""
        self._elsewhere.discard(host)
        if host not in self._links:
            self._taken_over.pop(host, None)

    def elsewhere(self) -> Set[str]:
        """Hosts that gave their stream up for one at another coordinator, and that have not been heard of since."""
        return self._elsewhere

    def _replace(self, old: Link, run: str) -> None:
        if old.run and old.run != run:
            log.warning("another agent process has this host name, the newer is served", host=old.host)
            self._taken_over.setdefault(old.host, set()).add(old.run)
            old.close(_taken(old.host))
        else:
            log.info("host opened a new stream, the old one is closed", host=old.host)
            old.close()

    def remove(self, link: Link) -> None:
        link.close()
        if self._links.get(link.host) is link:
            del self._links[link.host]
            if link.host not in self._elsewhere:
                self._taken_over.pop(link.host, None)

    def get(self, host: str) -> Link | None:
        return self._links.get(host)

    def hosts(self) -> set[str]:
        return set(self._links)

    def all(self) -> list[Link]:
        return list(self._links.values())

    def numbers(self) -> dict[str, int]:
        """Of the open streams, by host."""
        return {host: link.number for host, link in self._links.items()}

    def close(self) -> None:
        """End every stream: this process goes down, and the agents will come back to its successor."""
        for link in self._links.values():
            link.close()


def _taken(host: str) -> HostTaken:
    return HostTaken(
        f"another agent came with the host name '{host}' and is served instead",
        hint="give each host a name of its own in [host] of the agent's configuration",
    )
