"""Serving the HTTP application within this process's event loop. Why uvicorn: docs/decisions/http-server.md."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from litestar import Litestar

from coordinator.http.guarded import GuardedProtocol
from hostler.config import host_and_port
from hostler.errors import HostlerError

_HINTS: Final = {
    errno.EADDRINUSE: "is another program listening there? choose another address",
    errno.EADDRNOTAVAIL: "this machine has no such address (yet); if it is the agent's bridge, start the agent first",
}


KEEP_ALIVE_SECONDS: Final = 75
"""Longer than proxies keep a connection that idles (60 s as a rule): one that is closed here just as a proxy sends
a delivery over it loses that delivery, which is a POST and not sent twice."""


LARGEST_MESSAGE: Final = 64 * 1024
"""Of a websocket's client, which sends filters and nothing else."""


class CannotListen(HostlerError):
    """The address for HTTP cannot be had."""

    code = "cannot_listen"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's business, not the library's."""
        yield


@asynccontextmanager
async def serve(app: Litestar, bind: str, key: str = "http.bind") -> AsyncIterator[None]:
    """Serve within the block; requests under way are ended well when it ends. `key`: what errors call the address.

    Raises:
        CannotListen: the address is in use or not of this machine.
    """
    listener = _listen(bind, key)
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="wsproto",
        ws_max_size=LARGEST_MESSAGE,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        listener.close()


def _listen(bind: str, key: str) -> socket.socket:
    host, port = host_and_port(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where it knows the protocol; with it on, answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        hint = _HINTS.get(error.errno or 0, f"choose another {key}")
        raise CannotListen(f"{key}: cannot listen on {bind}: {error.strerror}", hint=hint) from error
    return listener
