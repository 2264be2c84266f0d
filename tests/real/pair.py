"""A farm with two coordinators on one PostgreSQL, each a process with its own key file's copy and its own addresses."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from coordinator.config import CoordinatorConfig, DatabaseTable, Grpc, Http
from coordinator.store.database import driver_url
from coordinator.store.keys import KEY_FILE
from coordinator.store.schema import instances, jobs, planning_lease
from tests.forge_simulator.records import ASKED_FOR
from tests.simulation.farm import REPOSITORY, SECRET, Farm
from tests.simulation.hosts import ProcessHost
from tests.simulation.processes import Process, free_port, start_agent, start_coordinator


class Side(msgspec.Struct):
    """One of the coordinators."""

    name: str
    directory: Path
    config: CoordinatorConfig
    url: str
    grpc_port: int
    process: Process | None = None


class Pair(Farm):
    """`first` is started before `second`, so it is the one that plans. What is asked is asked of the one looked at."""

    def __init__(self, directory: Path, database_url: str) -> None:
        super().__init__(directory)
        self.first, self.second = (self._side(name, database_url) for name in ("first", "second"))
        self._engine = create_async_engine(driver_url(database_url))
        self.look_at(self.first)

    def _side(self, name: str, database_url: str) -> Side:
        directory = self.directory / name
        data = directory / "data"
        data.mkdir(parents=True, mode=0o700)
        http, runner, grpc = free_port(), free_port(), free_port()
        config = CoordinatorConfig(
            data_dir=str(data),
            log_level="info",
            http=Http(bind=f"127.0.0.1:{http}", runner_bind=f"127.0.0.1:{runner}"),
            grpc=Grpc(
                bind=f"127.0.0.1:{grpc}",
                agents_bind=f"127.0.0.1:{free_port()}",
                clients_bind=f"127.0.0.1:{free_port()}",
                public_names=("127.0.0.1",),
            ),
            database=DatabaseTable(url=database_url),
        )
        return Side(name, directory, config, f"http://127.0.0.1:{http}", grpc)

    def look_at(self, side: Side) -> None:
        self.url, self.grpc_port, self.config = side.url, side.grpc_port, side.config

    async def start(self) -> None:
        """The forge, and both coordinators. Both get every webhook."""
        await self.forge.start()
        self.forge.add_repository(REPOSITORY)
        self.token = self.forge.add_token(REPOSITORY, permissions=ASKED_FOR).value
        await self.start_side(self.first)
        (self.second.directory / "data" / KEY_FILE).write_bytes((self.first.directory / "data" / KEY_FILE).read_bytes())
        (self.second.directory / "data" / KEY_FILE).chmod(0o600)
        await self.start_side(self.second)
        for side in (self.first, self.second):
            self.forge.add_hook(REPOSITORY, f"{side.url}/webhooks", SECRET)

    async def close(self) -> None:
        for side in (self.first, self.second):
            if side.process is not None:
                await self.kill_side(side)
        await self._engine.dispose()
        await super().close()

    async def start_side(self, side: Side) -> None:
        side.process = await start_coordinator(side.directory, side.config)
        self.look_at(side)
        await self._until_it_answers(side.process.check)

    async def kill_side(self, side: Side) -> None:
        process, side.process = side.process, None
        assert process is not None
        await process.kill()

    async def stop_side(self, side: Side) -> None:
        """In good order, as by systemd."""
        process, side.process = side.process, None
        assert process is not None
        process._process.terminate()
        assert await process._process.wait() == 0, process.errors()

    async def start_agent_of(self, side: Side, host: str = "host-1", *, enrolled: bool = False) -> ProcessHost:
        """An agent process that knows this coordinator alone."""
        address = side.config.grpc.agents_address if enrolled else f"127.0.0.1:{side.grpc_port}"
        self._processes[host] = await start_agent(self.directory, host, address)
        if host not in self.hosts:
            directory = self.directory / host / "instances"
            self.hosts[host] = ProcessHost(directory, self.guests, side.config, self.now)
            self._watches.append(asyncio.create_task(self.hosts[host].watch()))
        self.look_at(side)
        await self.until_host_connected(host)
        return self.hosts[host]

    def errors(self, side: Side) -> str:
        return (side.directory / "coordinator.stderr").read_text()

    async def answers(self) -> bool:
        """Whether both can be asked for what is in the database."""
        for side in (self.first, self.second):
            self.look_at(side)
            try:
                await self.jobs()
            except grpc.RpcError:
                return False
        return True

    # --- what is in the database ---

    async def rows(self, query: sa.Select[Any]) -> list[Any]:
        async with self._engine.connect() as connection:
            return list(await connection.execute(query))

    async def term(self) -> int:
        """How often the lease has changed hands."""
        return int((await self.rows(sa.select(planning_lease.c.fencing)))[0].fencing)

    async def until_term(self, number: int, seconds: float) -> float:
        """How long it took until the lease had its `number`th holder."""
        began = time.monotonic()
        while True:
            with suppress(sa.exc.SQLAlchemyError, OSError):
                if await self.term() >= number:
                    return time.monotonic() - began
            assert time.monotonic() - began < seconds, "nobody took the lease over"
            await asyncio.sleep(0.01)

    async def assert_each_job_had_one_machine(self, count: int) -> None:
        await self.assert_nothing_left()
        made = await self.rows(sa.select(instances.c.name))
        known = await self.rows(sa.select(jobs.c.forge_job_id))
        booted = [boot.name for boot in self.guests.booted]
        assert len(known) == len(made) == len(booted) == len(set(booted)) == count


@asynccontextmanager
async def pair(directory: Path, database_url: str) -> AsyncIterator[Pair]:
    two = Pair(directory, database_url)
    try:
        await two.start()
        yield two
    finally:
        await two.close()
