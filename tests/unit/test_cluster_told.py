"""What other coordinators tell while this one is still busy with what they told before, or fails at it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast
from unittest import mock

import pytest

from coordinator.cluster import cluster
from coordinator.cluster.cluster import Cluster
from coordinator.runner_api.waiting import Waiting
from coordinator.store.changed import Changes
from coordinator.store.telling import Told


class Others:
    """The database as far as a cluster asks it, and what is told through it. Its parts are one."""

    def __init__(self) -> None:
        self.alone = False
        self.me = "me"
        self.reclaimed: set[str] = set()
        self.members = self.hosts = self.catalog = self.feed = self
        self.asked: list[set[str]] = []
        self.failures = 0
        self.hear: Callable[[Told], None] = lambda _: None
        self._missed: Callable[[], None] = lambda: None

    async def beat(self, _numbers: object) -> float:
        return 60.0

    def listener(self, hear: Callable[[Told], None], missed: Callable[[], None]) -> "Others":
        self.hear, self._missed = hear, missed
        return self

    async def run(self) -> None:
        self._missed()

    async def holders(self, names: set[str]) -> dict[str, object]:
        self.asked.append(set(names))
        if len(self.asked) <= self.failures:
            raise OSError("no database")
        return {}

    def forget(self) -> None: ...

    def changed(self, _changes: Changes) -> None: ...

    async def release(self) -> None: ...

    async def leave(self) -> None: ...


class Streams:
    """One host is connected here."""

    def hosts(self) -> set[str]:
        return {"host-1"}

    def elsewhere(self) -> set[str]:
        return set()

    def get(self, _host: str) -> None: ...

    def numbers(self) -> dict[str, int]:
        return {}


class Cuts:
    def __init__(self) -> None:
        self.begun = 0
        self.failures = 0
        self.gate = asyncio.Event()

    async def cut(self) -> None:
        self.begun += 1
        if self.begun <= self.failures:
            raise OSError("no database")
        await self.gate.wait()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def cuts() -> Cuts:
    return Cuts()


@pytest.fixture
async def member(others: Others, cuts: Cuts) -> AsyncIterator[Cluster]:
    with mock.patch.object(cluster, "_AFTER_ERROR_SECONDS", 0.01):
        store, streams, revocations = cast("Any", others), cast("Any", Streams()), cast("Any", cuts)
        yield Cluster(store, streams, Waiting(), revocations)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


async def test_a_revocation_that_is_told_while_others_are_cut_is_carried_out_too(
    member: Cluster, others: Others, cuts: Cuts
) -> None:
    await member.join()
    await until(lambda: cuts.begun == 1)  # with the first connection anything may have been missed
    others.hear(Told("other", Changes(revoked={"enrolment-2"})))
    cuts.gate.set()
    await until(lambda: cuts.begun == 2)
    await member.leave()


async def test_revocations_that_could_not_be_looked_up_are_looked_up_again(member: Cluster, cuts: Cuts) -> None:
    cuts.failures = 2
    cuts.gate.set()
    await member.join()
    await until(lambda: cuts.begun == 3)
    await member.leave()


async def test_hosts_that_may_be_elsewhere_are_asked_for_until_the_database_answers(
    member: Cluster, others: Others, cuts: Cuts
) -> None:
    others.failures = 2
    cuts.gate.set()
    await member.join()
    await until(lambda: len(others.asked) == 3)
    assert others.asked == [{"host-1"}] * 3
    await member.leave()
