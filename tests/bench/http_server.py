"""A program for the comparison of HTTP servers: our webhook application, served by the one that is named.

As in the coordinator, the server is embedded in the process's own event loop, beside a gRPC server.
"""

import argparse
import asyncio
import importlib
import random
import signal
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
import uvicorn
from granian.constants import Interfaces
from granian.server.embed import Server as Granian
from litestar import Litestar

from coordinator.declare import Declaration
from coordinator.http.bodies import LARGEST_BODY
from coordinator.http.webhooks import Webhooks
from coordinator.store.store import open_store
from hostler import config
from tests.bench.fleet import Fleet

Serve = Callable[[Litestar, int], Awaitable[None]]


class _Uvicorn(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """The process ends as a whole."""


async def _uvicorn(app: Litestar, port: int, http: str) -> None:
    settings = uvicorn.Config(
        app, host="127.0.0.1", port=port, http=http, log_config=None, access_log=False, lifespan="off", ws="none"
    )
    await _Uvicorn(settings).serve()


async def _h11(app: Litestar, port: int) -> None:
    await _uvicorn(app, port, "h11")


async def _httptools(app: Litestar, port: int) -> None:
    await _uvicorn(app, port, "httptools")


async def _granian(app: Litestar, port: int) -> None:
    await Granian(app, port=port, interface=Interfaces.ASGINL, websockets=False, log_enabled=False).serve()


SERVERS: Final[Mapping[str, Serve]] = {
    "uvicorn+httptools": _httptools,
    "uvicorn+h11": _h11,
    "granian": _granian,
    "uvicorn+httptools on uvloop": _httptools,
}
UVLOOP: Final = "uvicorn+httptools on uvloop"


async def run(server: str, port: int, folder: Path) -> None:
    store = await open_store(
        f"sqlite:///{folder}/hostler.db",
        folder,
        clock=lambda: datetime.now(UTC),
        new_id=lambda: str(uuid.uuid4()),
        chance=random.random,
    )
    await store.catalog.apply(config.parse(Fleet().document(), Declaration, "benchmark"), frozenset())
    webhooks = Webhooks(store.catalog, store.ledger, store.controller_id, store.now)
    app = Litestar(
        route_handlers=webhooks.routes(),
        request_max_body_size=LARGEST_BODY,
        openapi_config=None,
        logging_config=None,
    )
    beside = grpc.aio.server()
    beside.add_insecure_port("127.0.0.1:0")
    await beside.start()
    serving = asyncio.ensure_future(SERVERS[server](app, port))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    await asyncio.wait({serving})
    await beside.stop(None)
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.http_server")
    parser.add_argument("server", choices=list(SERVERS))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    asked = parser.parse_args()
    # uvloop is no dependency: it is only compared.
    factory = importlib.import_module("uvloop").new_event_loop if asked.server == UVLOOP else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(asked.server, asked.port, asked.folder))


if __name__ == "__main__":
    main()
