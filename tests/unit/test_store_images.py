"""The catalogue and what hosts have of it, in the database: applied, removed, reported, wanted, told to the planner."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from coordinator.domain.changes import Phase, Step
from coordinator.domain.images import Report
from coordinator.domain.instance import Status
from coordinator.domain.planning.board import Board
from coordinator.domain.world import Policy
from coordinator.store.changed import Changes
from coordinator.store.images import ImageInUse, ImageUnknown
from coordinator.store.instances import PhaseFact
from hostler.images import FETCH_LIMIT, Compression, ImageFormat, ImageState
from tests.samples.store import Sample, open_sample

SHA, OTHER = "ab" * 32, "cd" * 32


def image(sha256: str = SHA, name: str = "debian", **more: str) -> str:
    said = {"name": name, "url": "https://images.example/debian.qcow2.xz", "sha256": sha256} | more
    return "[[image]]\n" + "".join(f'{key} = "{value}"\n' for key, value in said.items())


@pytest.fixture
async def sample(tmp_path: Path, database_url: str) -> AsyncIterator[Sample]:
    async with open_sample(tmp_path, database_url) as opened:
        yield opened


async def state(sample: Sample, sha256: str = SHA) -> dict[str, ImageState]:
    return {one.host: one.state for one in await sample.store.images.on_hosts([sha256])}


def say(state: ImageState, sha256: str = SHA, host: str = "host-1", code: str = "") -> Report:
    return Report(host, sha256, state, 1000, code, "why" if code else "")


async def test_an_image_is_declared_for_each_architecture_and_changed(sample: Sample) -> None:
    assert await sample.apply(image() + image(OTHER, arch="arm64")) == [
        "image debian/amd64: created",
        "image debian/arm64: created",
    ]
    found = await sample.store.images.find("debian", "amd64")
    assert found is not None
    assert (found.sha256, found.format, found.compression) == (SHA, ImageFormat.QCOW2, Compression.XZ)
    assert await sample.apply(image(OTHER)) == ["image debian/amd64: updated (sha256)"]
    now = await sample.store.images.find("debian", "amd64")
    assert now is not None
    assert now.sha256 == OTHER, "what creates ask for is not the old one"
    assert [one.arch for one in await sample.store.images.all()] == ["amd64", "arm64"]
    assert await sample.apply(image(OTHER)) == []


async def test_another_content_makes_idle_runners_old_and_another_address_does_not(sample: Sample) -> None:
    await sample.apply(image())
    before = (await sample.store.catalog.pools())[0].generation
    await sample.apply(image(url="https://mirror.example/debian.qcow2.xz"))
    assert (await sample.store.catalog.pools())[0].generation == before
    await sample.apply(image(OTHER))
    assert (await sample.store.catalog.pools())[0].generation == before + 1


async def test_a_name_that_a_pool_gives_is_not_removed(sample: Sample) -> None:
    await sample.apply(image() + image(OTHER, arch="arm64") + image(name="unused"))
    with pytest.raises(ImageInUse, match="image 'debian' is named by pool linux"):
        await sample.store.images.remove("debian", "")
    assert len(await sample.store.images.all()) == 3
    assert [one.arch for one in await sample.store.images.remove("debian", "arm64")] == ["arm64"]
    await sample.store.images.remove("unused", "")
    with pytest.raises(ImageUnknown, match="there is no image 'unused' in the catalogue"):
        await sample.store.images.remove("unused", "")


async def test_what_a_host_reports_is_kept_and_told_to_the_planner(sample: Sample) -> None:
    await sample.apply(image())
    board = Board(Policy(), {})
    await sample.store.planning.tell(board, Changes(catalog=True, hosts={"host-1"}))
    assert board.images["debian", "amd64"].sha256 == SHA
    sample.store.feed.take()
    await sample.store.images.report(say(ImageState.FETCHING))
    assert not sample.store.feed.take().hosts, "nothing that changes a plan"
    await sample.store.images.report(say(ImageState.HAVE))
    changes = sample.store.feed.take()
    assert changes.hosts == {"host-1"}
    await sample.store.planning.tell(board, changes)
    assert board.hosts["host-1"].held.contents == {SHA}
    world = await sample.store.planning.world({})
    assert [host.held.contents for host in world.hosts] == [frozenset({SHA})]
    assert [one.sha256 for one in world.images] == [SHA]
    await sample.store.images.report(say(ImageState.GONE))
    await sample.store.planning.tell(board, sample.store.feed.take())
    assert not board.hosts["host-1"].held.contents


async def test_a_failure_rests_that_image_on_that_host_alone(sample: Sample) -> None:
    await sample.store.images.report(say(ImageState.FAILED, code="image_fetch_failed"))
    await sample.store.images.report(say(ImageState.HAVE, OTHER))
    host = (await sample.store.planning.world({})).hosts[0]
    assert set(host.held.rests) == {SHA}
    assert host.held.contents == {OTHER}
    assert (host.failures, host.cool_until) == (0, None)


async def test_a_create_that_fails_for_its_image_blames_neither_host_nor_pool(sample: Sample) -> None:
    machine = await sample.instance()
    at = sample.clock()
    failed = PhaseFact("host-1", machine.id, Phase.FAILED, at, "404", error_code="image_fetch_failed")
    await sample.store.instances.record_phase(failed)
    world = await sample.store.planning.world({})
    assert (world.hosts[0].failures, world.pools[0].failures) == (0, 0)
    assert world.jobs[0].tries == 1, "but no job is tried for ever"
    assert (await sample.now(machine)).status is Status.PENDING_DELETE
    other = await sample.instance(2)
    await sample.store.instances.record_phase(PhaseFact("host-1", other.id, Phase.FAILED, at, "no disk"))
    assert (await sample.store.planning.world({})).hosts[0].failures == 1


async def test_a_fetch_takes_nothing_of_a_machines_time(sample: Sample) -> None:
    machine = await sample.instance()
    timeout = sample.pool.bootstrap_timeout

    async def reach(phase: Phase) -> None:
        fact = PhaseFact("host-1", machine.id, phase, sample.clock() - timedelta(hours=5))  # its clock is slow
        await sample.store.instances.record_phase(fact)

    await reach(Phase.ACCEPTED)
    await reach(Phase.FETCHING)
    began = sample.clock()
    assert (await sample.now(machine)).bootstrap_deadline == began + FETCH_LIMIT + timeout
    sample.clock.move(minutes=50)
    await reach(Phase.IMAGE)
    there = sample.clock()
    assert (await sample.now(machine)).bootstrap_deadline == there + timeout
    sample.clock.move(minutes=10)
    for repeated in (Phase.ACCEPTED, Phase.FETCHING, Phase.IMAGE):
        await reach(repeated)
    assert (await sample.now(machine)).bootstrap_deadline == there + timeout, "what is repeated gives no more time"
    job = msgspec.structs.replace(await sample.queue(), instance_id=machine.id)
    steps = [entry.step for entry in await sample.store.history.timeline(job)]
    assert [one for one in steps if one in (Step.FETCHING, Step.IMAGE)] == [Step.FETCHING, Step.IMAGE]


async def test_what_is_wanted_is_told_until_the_host_has_begun(sample: Sample) -> None:
    await sample.apply(image())
    (wanted,) = await sample.store.images.all()
    assert await sample.store.images.want(wanted, ["host-1", "host-2"]) == ["host-1", "host-2"]
    assert sample.store.feed.take().hosts >= {"host-1", "host-2"}
    assert [(host, one.name) for host, one in await sample.store.images.wanted()] == [
        ("host-1", "debian"),
        ("host-2", "debian"),
    ]
    await sample.store.images.report(say(ImageState.FETCHING))
    assert [host for host, _ in await sample.store.images.wanted()] == ["host-2"]
    assert await sample.store.images.want(wanted, ["host-1", "host-2"]) == ["host-2"], "one has begun"
    told = [(one.action, one.target, one.after) for one in await sample.store.audit.page(most=2)]
    assert told == [
        ("prefetched", "image debian/amd64", '{"hosts":["host-2"]}'),
        ("prefetched", "image debian/amd64", '{"hosts":["host-1","host-2"]}'),
    ]
    await sample.store.images.report(say(ImageState.HAVE))
    assert await state(sample) == {"host-1": ImageState.HAVE, "host-2": ImageState.WANTED}


async def test_an_agent_that_connects_says_all_there_is(sample: Sample) -> None:
    await sample.store.images.report(say(ImageState.HAVE))
    await sample.store.images.present("host-1", [say(ImageState.HAVE), say(ImageState.HAVE, OTHER)])
    assert await state(sample, OTHER) == {"host-1": ImageState.HAVE}
    sample.store.feed.take()
    await sample.store.images.present("host-1", [say(ImageState.HAVE), say(ImageState.HAVE, OTHER)])
    assert not sample.store.feed.take(), "nothing new, nothing written"
    await sample.store.images.present("host-1", [])
    assert await state(sample) == {}
    assert sample.store.feed.take().hosts == {"host-1"}
