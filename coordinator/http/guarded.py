"""uvicorn's protocol with limits that it has not: how many connections, how large a head, how long for a request."""

import asyncio
from typing import ClassVar, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coordinator.http.bodies import LARGEST_BODY

log = structlog.get_logger()

LARGEST_HEAD: Final = 64 * 1024
LONGEST_HEAD_SECONDS: Final = 20.0
MOST_CONNECTIONS: Final = 4096  # a storm of guests that wait for their configurations is some 1,600
BODY_GRACE_SECONDS: Final = 10.0  # GitHub itself gives a delivery up after 10 s
SLOWEST_BODY: Final = 512 * 1024  # bytes a second, on the average of what is beyond the grace
_COMPLAIN_SECONDS: Final = 60.0

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n"
)


class GuardedProtocol(HttpToolsProtocol):
    """Strangers reach this server: one connection could fill the memory, and many could wait for ever."""

    _complained_at: ClassVar = float("-inf")
    _head_bytes = 0
    _body_bytes = 0
    _body_began: float | None = None  # None: no body is on its way
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > MOST_CONNECTIONS:
            self._complain()
            self._refuse(_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._body_began, self._body_bytes = self.loop.time(), 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            return  # a websocket from here on, which has a protocol of its own
        if self.cycle.response_complete:
            self._await_head()  # it was answered before its end: the library waits for the next one for ever

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._body_began is not None:
            if self._body_bytes > 2 * LARGEST_BODY:
                self._refuse(b"")  # it was refused long ago, with time to hear of it
            elif self._deadline is None:
                self._wait_for_body()
        elif self._deadline is not None:
            self._head_bytes += len(data)
            if self._head_bytes > LARGEST_HEAD:
                self._refuse(_TOO_LARGE)

    def _await_head(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(LONGEST_HEAD_SECONDS, self._refuse, _TOO_SLOW)

    def _wait_for_body(self) -> None:
        """Until its grace is over and then, for as long as it comes quickly enough, on."""
        if self._body_began is None:
            return
        at = self._body_began + BODY_GRACE_SECONDS + self._body_bytes / SLOWEST_BODY
        if at <= self.loop.time():
            self._refuse(b"" if self.cycle.response_started else _TOO_SLOW)
        else:
            self._deadline = self.loop.call_at(at, self._wait_for_body)

    def _stop_waiting(self) -> None:
        self._head_bytes = 0
        self._body_began = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, answer: bytes) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            if answer:
                self.transport.write(answer)
            self.transport.close()

    def _complain(self) -> None:
        now = self.loop.time()
        if now - GuardedProtocol._complained_at > _COMPLAIN_SECONDS:
            GuardedProtocol._complained_at = now
            log.warning("connections are refused: there are too many", most=MOST_CONNECTIONS)
