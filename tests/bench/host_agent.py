"""A real agent as a process, played to by a coordinator of ours: what it is told, when it answers, what it holds."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from protos.hostler.v1 import fleet_pb2 as pb
from tests.bench.machine import rss_mib
from tests.bench.processes import Processes, program
from tests.bench.results import BenchmarkFailed
from tests.simulation.agent_harness import PlayedCoordinator, new_id

_NAME: Final = "agent"
_SECONDS: Final = 60.0


class Driver(msgspec.Struct, frozen=True):
    """What the agent makes machines with: its tables of the configuration, and what its commands say."""

    name: str
    image: str
    tables: str
    memory_mib: int = 64


class Holds(msgspec.Struct, frozen=True):
    """What a process and its data directory hold at one moment."""

    rss_mib: float
    descriptors: int
    threads: int
    files: int


class HostAgent:
    def __init__(self, coordinator: PlayedCoordinator, driver: Driver, pid: int, data: Path) -> None:
        self._coordinator = coordinator
        self._driver = driver
        self.pid = pid
        self.data = data

    def holds(self) -> Holds:
        process = Path(f"/proc/{self.pid}")
        return Holds(
            rss_mib=rss_mib(self.pid),
            descriptors=len(os.listdir(process / "fd")),  # noqa: PTH208 - names alone: they go while they are read
            threads=len(os.listdir(process / "task")),  # noqa: PTH208
            files=sum(1 for _ in self.data.rglob("*")),
        )

    async def create(self) -> tuple[str, float]:
        """The instance, and seconds from the command to the word that its machine runs."""
        instance_id = new_id()
        began = time.perf_counter()
        self._coordinator.create(
            instance_id,
            name=f"bench-{instance_id[:8]}",
            driver=self._driver.name,
            image=self._driver.image,
            resources=pb.Resources(vcpus=1, memory_mib=self._driver.memory_mib, disk_gib=1),
        )
        await self._hear(instance_id, "started", "failed")
        return instance_id, time.perf_counter() - began

    async def delete(self, instance_id: str) -> float:
        """Seconds from the command to the word that nothing is left."""
        began = time.perf_counter()
        self._coordinator.delete(instance_id)
        await self._hear(instance_id, "deleted", "delete_failed")
        return time.perf_counter() - began

    async def _hear(self, instance_id: str, good: str, bad: str) -> None:
        """What was heard of others is dropped, so that thousands of messages are not searched again and again."""
        async with asyncio.timeout(_SECONDS):
            await self._coordinator.until(lambda: {good, bad} & set(self._coordinator.phases(instance_id)))
        if good not in self._coordinator.phases(instance_id):
            told = [event.detail for event in self._coordinator.events(instance_id)]
            raise BenchmarkFailed(f"instance {instance_id}: {'; '.join(filter(None, told))}")


@asynccontextmanager
async def host_agent(folder: Path, driver: Driver) -> AsyncIterator[HostAgent]:
    """An agent that is connected; at the end it is stopped, its machines are the block's to delete."""
    data = folder / "data"
    async with PlayedCoordinator(heartbeat_seconds=15) as coordinator, Processes(folder) as processes:
        config = folder / "agent.toml"
        config.write_text(_toml(data, coordinator.port, driver))
        pid = await processes.start(
            _NAME, [program("hostler-agent"), "--config", str(config)], lambda: bool(coordinator.hellos())
        )
        yield HostAgent(coordinator, driver, pid, data)
        processes.check(_NAME)


def _toml(data: Path, port: int, driver: Driver) -> str:
    return f"""\
data_dir = "{data}"
log_level = "warning"

[host]
name = "bench-host"

[coordinator]
address = "127.0.0.1:{port}"

[capacity]
reserved_memory_mib = 0
reserved_disk_gib = 0
cpu_overcommit = 32.0

{driver.tables}"""
