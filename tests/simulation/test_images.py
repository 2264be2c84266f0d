"""Images of the catalogue in the whole farm: fetched when a machine needs them or before, by real agents over HTTP."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hostler.images import Compression
from protos.hostler.v1 import admin_pb2
from providers.images import download
from providers.images.values import ImageSource
from tests.samples.image_server import ImageServer, content, serving
from tests.simulation.farm import PATIENCE_SECONDS, Farm, farm, pool


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)
    with serving() as habits:
        yield habits


def declared(source: ImageSource) -> str:
    return (
        f'[[image]]\nname = "debian"\nurl = "{source.url}"\nsha256 = "{source.sha256}"\n'
        f'format = "{source.format}"\ncompression = "{source.compression}"\n'
    )


def debian(name: str = "small", max_runners: int = 100) -> str:
    return pool(name, max_runners=max_runners).replace('image = "simulated"', 'image = "debian"')


async def images(one: Farm) -> dict[str, admin_pb2.ImageOnHost]:
    async with one.admin() as admin:
        answer = await admin.GetImage(admin_pb2.GetImageRequest(name="debian"))
    return {held.host: held for held in answer.hosts}


async def until_image(one: Farm, host: str, state: str, total_bytes: int = 0) -> admin_pb2.ImageOnHost:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            held = (await images(one)).get(host)
            if held is not None and held.state == state and held.total_bytes == total_bytes:
                return held
            await asyncio.sleep(0.02)


async def test_a_job_waits_for_its_machines_image_and_the_next_does_not(tmp_path: Path, server: ImageServer) -> None:
    source = server.offer(content(), Compression.XZ)
    async with farm(tmp_path) as one:
        await one.declare(declared(source), debian())
        await one.start_agent()
        first = one.queue()
        await one.completed(first)
        second = one.queue()
        await one.completed(second)
        await one.assert_nothing_left()
        steps = [entry.step for entry in (await one.job(first.id)).timeline]
        fetch = ["accepted", "fetching image", "image", "disk"]
        assert [step for step in steps if step in fetch] == fetch
        assert "image" not in [entry.step for entry in (await one.job(second.id)).timeline]
        assert (await images(one))["host-1"].state == "have"
    assert len(server.asked) == 1


async def test_a_host_that_has_the_image_goes_before_one_that_does_not(tmp_path: Path, server: ImageServer) -> None:
    source = server.offer(content())
    async with farm(tmp_path) as one:
        await one.declare(declared(source), debian())
        await one.start_agent("host-2")
        await one.completed(one.queue())
        await one.start_agent("host-1")
        await one.completed(*[one.queue() for _ in range(5)])
        await one.assert_nothing_left()
        assert set(await images(one)) == {"host-2"}
    assert len(server.asked) == 1


async def test_an_image_that_cannot_be_had_rests_on_that_host_and_nothing_else_does(
    tmp_path: Path, server: ImageServer
) -> None:
    source = server.offer(content())
    right, server.files["/image"] = server.files["/image"], content(seed=2)
    async with farm(tmp_path) as one:
        await one.declare(declared(source), debian(), pool("own", labels=["own"]))
        await one.start_agent()
        job = one.queue()
        held = await until_image(one, "host-1", "failed")
        assert held.error_code == "image_fetch_checksum"
        assert held.HasField("rests_until")
        await one.completed(one.queue(["own"]))
        server.files["/image"] = right
        await until_image(one, "host-1", "have")
        await one.completed(job)
        await one.assert_nothing_left()


async def test_prefetching_reaches_hosts_that_are_there_and_those_that_come_back(
    tmp_path: Path, server: ImageServer
) -> None:
    source = server.offer(content())
    server.hold_after = 1_000_000
    async with farm(tmp_path) as one:
        await one.declare(declared(source), debian())
        await one.start_agent("host-1")
        await one.start_agent("host-2")
        await one.stop("host-2")
        async with one.admin() as admin:
            answer = await admin.PrefetchImages(admin_pb2.PrefetchImagesRequest(name="debian"))
            assert list(answer.hosts) == ["host-1", "host-2"]
            with pytest.raises(grpc.aio.AioRpcError, match="there is no host 'nobody'"):
                await admin.PrefetchImages(admin_pb2.PrefetchImagesRequest(name="debian", host="nobody"))
        await until_image(one, "host-1", "fetching", total_bytes=len(content()))
        assert (await images(one))["host-2"].state == "wanted"
        server.hold.set()
        await until_image(one, "host-1", "have")
        await one.start_agent("host-2")
        await until_image(one, "host-2", "have")
        await one.completed(one.queue())
        await one.assert_nothing_left()
    assert len(server.asked) == 2


async def test_an_image_is_not_removed_while_a_pool_names_it(tmp_path: Path, server: ImageServer) -> None:
    async with farm(tmp_path) as one:
        await one.declare(declared(server.offer(content())), debian())
        async with one.admin() as admin:
            with pytest.raises(grpc.aio.AioRpcError, match="image 'debian' is named by pool small"):
                await admin.RemoveImage(admin_pb2.RemoveImageRequest(name="debian"))
            await one.declare(pool("small"))
            answer = await admin.RemoveImage(admin_pb2.RemoveImageRequest(name="debian"))
            assert [image.name for image in answer.removed] == ["debian"]
            assert not (await admin.ListImages(admin_pb2.ListImagesRequest())).images


async def test_agents_killed_in_the_middle_of_a_fetch_go_on_where_they_were(
    tmp_path: Path, server: ImageServer
) -> None:
    source = server.offer(content())
    server.hold_after = 2_000_000
    async with farm(tmp_path) as one:
        await one.declare(declared(source), debian())
        await one.start_agent_process()
        job = one.queue()
        await until_image(one, "host-1", "fetching", total_bytes=len(content()))
        part = tmp_path / "host-1" / "catalogue" / f"{source.sha256}.part"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while part.stat().st_size < 1_000_000:
                await asyncio.sleep(0.02)
        await one.kill("host-1")
        server.hold_after = None
        await one.start_agent_process()
        await one.completed(job)
        await one.assert_nothing_left()
    assert server.asked[1][1]["Range"].startswith("bytes=")
