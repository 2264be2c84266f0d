"""Who does not read, or is slow, makes the other side wait; nobody's queues grow without bound."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import grpc
import msgspec
import pytest

from agent import session
from coordinator.fleet import service, silence, wire
from coordinator.fleet.entrance import Loopback
from coordinator.fleet.links import MOST_WAITING, Link, Links
from coordinator.fleet.reconciler import Reconciler
from coordinator.fleet.service import FleetService
from coordinator.fleet.strays import ORPHAN_GRACE, Strays
from coordinator.store.instances import PhaseFact
from hostler import __version__
from protos.hostler.v1 import fleet_pb2 as pb
from protos.hostler.v1.fleet_pb2_grpc import FleetStub, add_FleetServicer_to_server
from providers.simulated import SimulatedProvider
from tests.samples.store import Sample, open_sample
from tests.simulation.agent_harness import QUICK, PlayedCoordinator, new_id, running_agent

PATIENCE_SECONDS = 20.0
PADDING = b"x" * 4096


class Served(msgspec.Struct):
    """The fleet service alone, over real gRPC."""

    sample: Sample
    links: Links
    port: int

    async def link(self) -> Link:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (link := self.links.get("host-1")) is None:
                await asyncio.sleep(0.01)
        return link


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with open_sample(tmp_path) as sample:
        links = Links()
        server = grpc.aio.server()
        strays = Strays(sample.store, AsyncMock(), ORPHAN_GRACE)
        reconciler = Reconciler(sample.store, lambda _: None, strays)
        add_FleetServicer_to_server(FleetService(sample.store, links, reconciler, strays, Loopback()), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield Served(sample, links, port)
        links.close()
        await server.stop(grace=0)


async def open_stream(channel: grpc.aio.Channel) -> Any:
    call: Any = FleetStub(channel).Session()
    capacity = pb.Resources(vcpus=1, memory_mib=1, disk_gib=1)
    hello = pb.Hello(host="host-1", agent_version=__version__, arch="amd64", capacity=capacity)
    await call.write(pb.AgentMessage(hello=hello))
    return call


def padded() -> pb.CoordinatorMessage:
    return pb.CoordinatorMessage(create_instance=pb.CreateInstance(bootstrap=pb.Bootstrap(user_data=PADDING)))


async def connected(served: Served, name: str) -> bool:
    return {host.name: host.connected for host in await served.sample.store.hosts.all()}[name]


async def test_an_agent_that_reads_nothing_is_cut_off_and_may_come_back(served: Served) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = await open_stream(channel)
        link = await served.link()
        sent = 0
        while not link.closed.is_set():
            link.send(padded())
            sent += 1
            assert len(link._outgoing) <= MOST_WAITING
            if sent % 50 == 0:
                await asyncio.sleep(0)
        assert MOST_WAITING < sent < 2 * MOST_WAITING
        async with asyncio.timeout(PATIENCE_SECONDS):
            while served.links.get("host-1") is not None or await connected(served, "host-1"):
                await asyncio.sleep(0.01)
        again = await open_stream(channel)
        assert (await again.read()).HasField("welcome")
        again.cancel()
        call.cancel()


async def test_an_agent_that_says_nothing_is_cut_off_and_may_come_back(served: Served) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = await open_stream(channel)
        assert (await call.read()).HasField("welcome")
        link = await served.link()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not link.is_listening:
                await asyncio.sleep(0.01)
        silence.cut_silent(served.links, asyncio.get_running_loop().time() + silence.LONGEST_SECONDS + 1)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "nothing was heard" in await call.details()
        again = await open_stream(channel)
        assert (await again.read()).HasField("welcome")
        again.cancel()


async def test_a_flood_of_events_waits_at_the_agent_while_the_database_is_slow(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = 0, asyncio.Event()
    flood = 20 * service._EVENTS_AT_ONCE

    async def slowly(_: PhaseFact) -> None:
        nonlocal begun
        begun += 1
        await may_end.wait()

    monkeypatch.setattr(served.sample.store.instances, "record_phase", slowly)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = await open_stream(channel)

        async def tell() -> None:
            for sequence in range(1, flood + 1):
                event = pb.InstanceEvent(sequence=sequence, phase=pb.PHASE_STARTED, detail=PADDING.decode())
                await call.write(pb.AgentMessage(event=event))

        telling = asyncio.create_task(tell())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while begun < service._EVENTS_AT_ONCE:
                await asyncio.sleep(0.01)
        done, _ = await asyncio.wait({telling}, timeout=1.0)
        assert not done
        assert begun <= service._EVENTS_AT_ONCE + 2
        may_end.set()
        acknowledged = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while acknowledged < flood:
                heard = await call.read()
                assert not heard.HasField("event_ack") or heard.event_ack.sequence > acknowledged
                acknowledged = max(acknowledged, heard.event_ack.sequence)
        await telling
        call.cancel()


async def test_acknowledgements_that_were_not_read_are_said_as_one(served: Served) -> None:
    link = Link("host-1", 1, "", served.sample.clock())
    for sequence in range(1, 1000):
        link.acknowledge(sequence)
    link.send(wire.delete_command(new_id(), 1))
    first, _ = await link.next()
    second, _ = await link.next()
    assert first.event_ack.sequence == 999
    assert second.HasField("delete_instance")
    waiting = asyncio.create_task(link.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    link.acknowledge(1000)
    assert (await waiting)[0].event_ack.sequence == 1000


async def test_a_coordinator_that_acknowledges_nothing_gets_no_more_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MOST_UNACKNOWLEDGED", 6)
    provider = SimulatedProvider(QUICK, directory=tmp_path / "instances")
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        coordinator.acks = False
        await coordinator.hears_hello(1)
        ids = [new_id() for _ in range(4)]
        for one in ids[:2]:
            coordinator.create(one)
            await coordinator.hears(one, "started")
        coordinator.create(ids[2])
        coordinator.delete(ids[0])  # what frees the host is still done
        await coordinator.hears(ids[0], "deleted")
        assert len(provider.create_calls) == 2
        coordinator.say(event_ack=pb.EventAck(sequence=coordinator.events()[-1].sequence))
        coordinator.acks = True
        await coordinator.hears_hello(2)  # where a coordinator sees what there is not, and asks again
        assert ids[2] not in {machine.instance_id for machine in coordinator.hellos()[-1].inventory.machines}
        for one in ids[2:]:
            coordinator.create(one)
            await coordinator.hears(one, "started")
        assert [spec.instance_id for spec in provider.create_calls] == ids
