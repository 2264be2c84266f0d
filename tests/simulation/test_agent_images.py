"""The agent's images against a played coordinator and a real web server: what is told, and when machines start."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hostler.images import Compression
from protos.hostler.v1 import fleet_pb2 as pb
from providers.images import download
from providers.images.values import ImageSource
from providers.simulated import SimulatedProvider
from tests.samples.image_server import ImageServer, content, serving
from tests.simulation.agent_harness import QUICK, PlayedCoordinator, new_id, running_agent

FETCHED = ["accepted", "fetching", "image", "disk", "started"]
MADE = ["accepted", "disk", "started"]
HAVE, FETCHING, FAILED = pb.IMAGE_STATE_HAVE, pb.IMAGE_STATE_FETCHING, pb.IMAGE_STATE_FAILED


@pytest.fixture
def provider(tmp_path: Path) -> SimulatedProvider:
    return SimulatedProvider(QUICK, directory=tmp_path / "instances")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)
    with serving() as habits:
        yield habits


def told(source: ImageSource) -> pb.ImageSource:
    return pb.ImageSource(**msgspec.structs.asdict(source))


def reports(coordinator: PlayedCoordinator) -> list[pb.ImageReport]:
    return [message.image_report for message in coordinator.heard if message.HasField("image_report")]


async def test_a_machine_of_an_image_that_is_not_here_waits_for_it(
    tmp_path: Path, provider: SimulatedProvider, server: ImageServer
) -> None:
    source = server.offer(content(), Compression.GZ)
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        hello = await coordinator.hears_hello(1)
        assert hello.drivers[0].fetches
        coordinator.create(one := new_id(), image="debian", image_source=told(source))
        await coordinator.hears(one, "started")
        coordinator.create(two := new_id(), image="debian", image_source=told(source))
        await coordinator.hears(two, "started")
    assert (coordinator.phases(one), coordinator.phases(two)) == (FETCHED, MADE)
    assert reports(coordinator)[0].state == FETCHING
    assert reports(coordinator)[-1].state == HAVE
    story = [word for word in coordinator.story() if word != "heartbeat"]
    assert story.index("image") > len(story) - 1 - story[::-1].index("image_report"), "that it is here is told first"
    assert len(server.asked) == 1


async def test_others_start_while_one_waits_for_its_image(
    tmp_path: Path, provider: SimulatedProvider, server: ImageServer
) -> None:
    source = server.offer(content())
    server.hold_after = 1000
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        waiting = [new_id() for _ in range(20)]
        for one in waiting:
            coordinator.create(one, image="debian", image_source=told(source))
        for one in waiting:
            await coordinator.hears(one, "fetching")
        coordinator.create(other := new_id())
        await coordinator.hears(other, "started")
        coordinator.delete(waiting[0])
        await coordinator.hears(waiting[0], "deleted")
        server.hold.set()
        for one in waiting[1:]:
            await coordinator.hears(one, "started")
    assert len(server.asked) == 1
    assert len(provider.create_calls) == 20


async def test_an_image_that_cannot_be_had_fails_the_create_with_its_code(
    tmp_path: Path, provider: SimulatedProvider, server: ImageServer
) -> None:
    source = server.offer(content())
    server.files["/image"] = content(seed=2)
    async with PlayedCoordinator() as coordinator, running_agent(tmp_path, coordinator.port, provider):
        await coordinator.hears_hello(1)
        coordinator.create(one := new_id(), image="debian", image_source=told(source))
        await coordinator.hears(one, "failed")
    assert coordinator.phases(one) == ["accepted", "fetching", "failed"]
    event = coordinator.events(one)[-1]
    assert event.error_code == "image_fetch_checksum"
    assert "has the SHA-256" in event.detail
    report = reports(coordinator)[-1]
    assert (report.state, report.error_code, report.detail) == (FAILED, "image_fetch_checksum", event.detail)
    assert provider.create_calls == []


async def test_a_prefetch_is_told_from_beginning_to_end_and_known_after_a_restart(
    tmp_path: Path, provider: SimulatedProvider, server: ImageServer
) -> None:
    source = server.offer(content())
    async with PlayedCoordinator() as coordinator:
        async with running_agent(tmp_path, coordinator.port, provider):
            await coordinator.hears_hello(1)
            coordinator.say(prefetch_image=pb.PrefetchImage(image=pb.ImageSource(sha256="no digest")))
            coordinator.say(prefetch_image=pb.PrefetchImage(image=told(source)))
            await coordinator.until(lambda: reports(coordinator) and reports(coordinator)[-1].state == HAVE)
        async with running_agent(tmp_path, coordinator.port, SimulatedProvider(QUICK)):
            hello = await coordinator.hears_hello(2)
    assert [(image.sha256, image.state) for image in hello.images] == [(source.sha256, HAVE)]
    assert len(server.asked) == 1


async def test_an_agent_that_stops_while_it_fetches_goes_on_when_it_is_told_again(
    tmp_path: Path, provider: SimulatedProvider, server: ImageServer
) -> None:
    source = server.offer(content())
    server.hold_after = 1_000_000
    async with PlayedCoordinator() as coordinator:
        async with running_agent(tmp_path, coordinator.port, provider):
            await coordinator.hears_hello(1)
            coordinator.create(one := new_id(), image="debian", image_source=told(source))
            await asyncio.to_thread(server.holding.wait, 10)
            await coordinator.hears(one, "fetching")
        assert "failed" not in coordinator.phases(one)
        server.hold_after = None
        async with running_agent(tmp_path, coordinator.port, provider):
            hello = await coordinator.hears_hello(2)
            assert not hello.inventory.machines
            coordinator.create(one, image="debian", image_source=told(source))
            await coordinator.hears(one, "started")
    assert server.asked[1][1]["Range"].startswith("bytes=")
