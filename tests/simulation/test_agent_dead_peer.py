"""A coordinator that falls silent without closing: pulled cable, dead machine. Takes as long as noticing may take."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from providers.simulated import SimulatedProvider
from tests.simulation.agent_harness import QUICK, PlayedCoordinator, running_agent
from tests.simulation.enrolled import enrolled_farm


class Cable:
    """Carries bytes to `target_port` until it is pulled; then it swallows them, and carries again when plugged."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._whole = asyncio.Event()
        self._whole.set()
        self.port = 0
        self.ended = asyncio.Event()

    def pull(self) -> None:
        self._whole.clear()
        self.ended.clear()

    def plug(self) -> None:
        self._whole.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        ways = [
            asyncio.create_task(self._one_way(reader, far_writer)),
            asyncio.create_task(self._one_way(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ended.set()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()
            far_writer.close()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._whole.is_set():
                writer.write(data)


@asynccontextmanager
async def cable_to(port: int) -> AsyncIterator[Cable]:
    cable = Cable(port)
    server = await asyncio.start_server(cable.carry, "127.0.0.1", 0)
    cable.port = server.sockets[0].getsockname()[1]
    async with server:
        yield cable


async def test_a_silent_peer_is_noticed_within_20_seconds_and_a_new_stream_follows(tmp_path: Path) -> None:
    async with (
        PlayedCoordinator(heartbeat_seconds=2) as coordinator,
        cable_to(coordinator.port) as cable,
        running_agent(tmp_path, cable.port, SimulatedProvider(QUICK)),
    ):
        await coordinator.until(lambda: "heartbeat" in coordinator.story())
        cable.pull()
        began = time.monotonic()
        async with asyncio.timeout(25):
            await cable.ended.wait()
        assert time.monotonic() - began < 20
        cable.plug()
        async with asyncio.timeout(25):
            while coordinator.streams < 2:
                await asyncio.sleep(0.1)


async def test_over_tls_both_sides_notice_a_silent_peer_within_20_seconds(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one, cable_to(one.agents_port) as cable:
        await one.declare()
        await one.enrol()
        await one.start_agent(address=f"127.0.0.1:{cable.port}")
        cable.pull()
        began = time.monotonic()
        await one.until(lambda status: not status.hosts[0].connected, seconds=25)
        assert time.monotonic() - began < 20
        async with asyncio.timeout(25):
            await cable.ended.wait()
        assert time.monotonic() - began < 20
        cable.plug()
        await one.until_host_connected()
        await one.completed(one.queue())
        await one.assert_nothing_left()
