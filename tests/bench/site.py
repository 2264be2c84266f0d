"""The system under test: the real coordinator as a process, with its data on a real disk, and its forge."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from protos.hostler.v1 import admin_pb2 as pb
from protos.hostler.v1.admin_pb2_grpc import AdminStub
from tests.bench.fleet import TOKEN, Fleet
from tests.bench.processes import Processes, answers, free_port, python

if TYPE_CHECKING:
    from protos.hostler.v1.admin_pb2_grpc import AdminAsyncStub

# A proxy of the environment must not be asked for this machine's own ports.
CHANNEL_OPTIONS: Final = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1))
_COORDINATOR: Final = "coordinator"


class Site:
    """A coordinator in a folder. It may be stopped, killed and started again."""

    def __init__(self, folder: Path, processes: Processes, database_url: str = "", more: str = "") -> None:
        """`database_url`: a PostgreSQL database; empty: SQLite in the folder. `more`: tables for the configuration."""
        self._processes = processes
        self._config = folder / "coordinator.toml"
        self.data = folder / "coordinator"
        self._more = more
        self._database_url = database_url or f"sqlite:///{self.database}"
        self.http_port, self.runner_port, self.grpc_port = free_port(), free_port(), free_port()
        self.pid = 0

    @property
    def database(self) -> Path:
        """The file, where it is SQLite's."""
        return self.data / "hostler.db"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    async def start(self) -> None:
        self._config.write_text(self._toml())
        command = [*python("tests.bench.sweeping"), "--config", str(self._config)]
        ports = (self.http_port, self.runner_port, self.grpc_port)
        self.pid = await self._processes.start(_COORDINATOR, command, lambda: all(map(answers, ports)))

    async def stop(self) -> None:
        await self._processes.stop(_COORDINATOR)

    async def kill(self) -> None:
        await self._processes.kill(_COORDINATOR)

    def sweep(self) -> None:
        """Let it read everything anew, as it does every five minutes."""
        os.kill(self.pid, signal.SIGUSR1)

    def check(self) -> None:
        self._processes.check(_COORDINATOR)

    @asynccontextmanager
    async def admin(self) -> AsyncIterator["AdminAsyncStub"]:
        async with grpc.aio.insecure_channel(self.grpc, options=CHANNEL_OPTIONS) as channel:
            yield AdminStub(channel)

    async def declare(self, fleet: Fleet) -> None:
        async with self.admin() as admin:
            await admin.Apply(pb.ApplyRequest(document=fleet.document()))

    def _toml(self) -> str:
        return f"""\
data_dir = "{self.data}"
log_level = "warning"

[http]
bind = "127.0.0.1:{self.http_port}"
runner_bind = "127.0.0.1:{self.runner_port}"

[grpc]
bind = "{self.grpc}"

[database]
url = "{self._database_url}"

{self._more}"""


@asynccontextmanager
async def site(folder: Path, fleet: Fleet, more: str = "") -> AsyncIterator[Site]:
    """A coordinator that knows the fleet; `more`: tables for its configuration."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    async with Processes(folder) as processes:
        one = Site(folder, processes, more=more)
        await one.start()
        await one.declare(fleet)
        yield one


@asynccontextmanager
async def forge(folder: Path, repository: str) -> AsyncIterator[str]:
    """A forge simulator in a process of its own, which answers as fast as it can; its address. It sends no webhooks."""
    state = folder / "forge.json"
    port = free_port()
    command = [*python("tests.forge_simulator"), "--bind", f"127.0.0.1:{port}", "--state-file", str(state)]
    async with Processes(folder) as processes:
        environment = {"FORGE_TOKEN": TOKEN}
        await processes.start(
            "forge",
            [*command, "--repository", repository],
            lambda: state.exists() and answers(port),
            environment,
        )
        yield str(json.loads(state.read_text())["base_url"])
