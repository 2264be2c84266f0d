"""Machines that should not be there: looked at twice, asked for, and only then destroyed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.domain.instance import Instance
from coordinator.domain.reconcile import Claim
from coordinator.fleet import openness
from coordinator.fleet import strays as module
from coordinator.fleet.links import Link
from coordinator.fleet.reconciler import Reconciler
from coordinator.fleet.strays import Strays
from protos.hostler.v1 import fleet_pb2 as pb
from tests.samples.store import Sample, open_sample

UNKNOWN = pb.Machine(
    instance_id="00000000-0000-4000-8000-0000000000ff", name="hostler-0123456789ab", state=pb.MACHINE_STATE_RUNNING
)


class Post:
    """A coordinator's end of one stream, with forges that answer as a test says."""

    def __init__(self, sample: Sample, grace: timedelta = timedelta(0)) -> None:
        self.sample = sample
        self.claims: list[Claim | Exception] = [Claim.FREE]
        self.asked: list[tuple[str, Instance | None]] = []
        self.strays = Strays(sample.store, self._claim, grace)
        self.reconciler = Reconciler(sample.store, lambda _: None, self.strays)
        self.link = self.new_link()

    def new_link(self) -> Link:
        self.link = Link("host-1", 1, "agent", self.sample.store.now())
        return self.link

    async def _claim(self, name: str, instance: Instance | None) -> Claim:
        self.asked.append((name, instance))
        answer = self.claims[0] if len(self.claims) == 1 else self.claims.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def hello(self, *machines: pb.Machine) -> None:
        self.link.strays_to_go = await self.strays.ended("host-1", pb.Inventory(machines=machines))
        await self.reconciler.compare(self.link, pb.Inventory(machines=machines))

    async def sent(self, kind: str) -> pb.CoordinatorMessage:
        async with asyncio.timeout(5):
            message, _ = await self.link.next()
        assert message.WhichOneof("message") == kind
        return message

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0.001)

    def nothing_sent(self) -> bool:
        return not self.link._outgoing


@pytest.fixture
async def post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Post]:
    monkeypatch.setattr(module, "_ASK_AGAIN_SECONDS", 0.01)
    async with open_sample(tmp_path) as sample:
        made = Post(sample)
        yield made
        made.link.close()
        made.strays.close()


async def ended(post: Post) -> tuple[Instance, pb.Machine]:
    """An instance whose row has ended while its host was away, and its machine, which runs."""
    instance = await post.sample.instance()
    await post.sample.store.hosts.left("host-1", 1, post.sample.clock())
    await post.sample.store.upkeep.lose(instance.id, "lost", only_if=instance.runner_status)
    await post.sample.store.hosts.present(post.sample.host(), 1, "agent")
    machine = pb.Machine(instance_id=instance.id, generation=1, name=instance.name, state=pb.MACHINE_STATE_RUNNING)
    return await post.sample.now(instance), machine


async def test_an_unknown_machine_is_seen_twice_and_asked_for_before_it_is_destroyed(post: Post) -> None:
    await post.hello(UNKNOWN)
    await post.sent("inventory_request")
    assert not post.asked
    post.reconciler.looked(post.link, pb.Inventory(machines=[UNKNOWN]))
    deleted = await post.sent("delete_instance")
    assert deleted.delete_instance.instance_id == UNKNOWN.instance_id
    assert post.asked == [(UNKNOWN.name, None)]
    assert not post.link.strays


async def test_one_that_is_not_there_at_the_second_look_is_forgotten(post: Post) -> None:
    await post.hello(UNKNOWN)
    await post.sent("inventory_request")
    post.reconciler.looked(post.link, pb.Inventory())
    await post.until(lambda: not post.strays._tasks)
    assert not post.asked
    assert post.nothing_sent()


async def test_a_busy_runner_is_kept_and_its_machine_goes_when_its_job_has_ended(post: Post) -> None:
    post.claims = [Claim.BUSY, Claim.BUSY, Claim.FREE]
    await post.hello(UNKNOWN)
    for _ in range(3):
        await post.sent("inventory_request")
        post.reconciler.looked(post.link, pb.Inventory(machines=[UNKNOWN]))
    await post.sent("delete_instance")
    assert len(post.asked) == 3


async def test_one_that_no_pool_can_have_made_is_kept_and_told_of(post: Post) -> None:
    post.claims = [Claim.NOBODYS]
    await post.hello(UNKNOWN)
    await post.sent("inventory_request")
    post.reconciler.looked(post.link, pb.Inventory(machines=[UNKNOWN]))
    await post.until(lambda: not post.strays._tasks)
    assert post.nothing_sent()
    name, reason = post.link.strays[UNKNOWN.instance_id]
    assert name == UNKNOWN.name
    assert "neither an instance nor a pool is known" in reason


async def test_where_no_forge_answers_nothing_is_destroyed(post: Post) -> None:
    instance, machine = await ended(post)
    post.claims = [OSError("no route"), OSError("no route"), Claim.FREE]
    await post.hello(machine)
    deleted = await post.sent("delete_instance")
    assert len(post.asked) == 3
    assert deleted.delete_instance.generation == instance.generation


async def test_the_first_look_of_an_earlier_stream_counts(tmp_path: Path) -> None:
    async with open_sample(tmp_path) as sample:
        post = Post(sample, grace=timedelta(minutes=1))
        await post.hello(UNKNOWN)
        await post.until(lambda: post.link.strays)
        post.link.close()
        await post.until(lambda: not post.strays._tasks)
        sample.clock.move(seconds=61)
        post.new_link()
        await post.hello(UNKNOWN)
        await post.sent("delete_instance")
        assert post.asked == [(UNKNOWN.name, None)]
        post.link.close()


async def test_a_machine_that_has_ended_with_its_lost_host_is_asked_for_at_once(post: Post) -> None:
    instance, machine = await ended(post)
    await post.hello(machine)
    await post.sent("delete_instance")
    assert post.asked == [(instance.name, instance)]


@pytest.mark.parametrize("state", [pb.MACHINE_STATE_STOPPED, pb.MACHINE_STATE_CREATING])
async def test_one_that_cannot_be_busy_is_not_asked_for(post: Post, state: "pb.MachineState.ValueType") -> None:
    _, machine = await ended(post)
    machine.state = state
    await post.hello(machine)
    await post.sent("delete_instance")
    assert not post.asked


async def test_a_host_takes_nothing_while_it_holds_what_has_ended(post: Post) -> None:
    instance, machine = await ended(post)
    assert await post.strays.ended("host-1", pb.Inventory(machines=[machine, UNKNOWN])) == {instance.id}
    await post.hello(machine)
    post.link.told = openness.closed_for(post.link.short, 1)
    await post.sample.store.hosts.press("host-1", 1, post.link.told)
    await post.sent("delete_instance")
    (host,) = (await post.sample.store.planning.world({})).hosts
    assert "must go first" in host.closed
    await post.strays.let_go(post.link, instance.id)
    (host,) = (await post.sample.store.planning.world({})).hosts
    assert not host.closed
