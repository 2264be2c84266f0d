"""Jobs that need more room than others, or a host of their own, beside others who take each piece that becomes free."""

import random
from datetime import datetime, timedelta
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.fleet import Entity, EntityKind, Flavor, Host, Pool
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.domain.job import Job
from coordinator.domain.planner import plan_on, why_waiting
from coordinator.domain.planning import holds
from coordinator.domain.planning.board import Board
from coordinator.domain.resources import Resources
from coordinator.domain.world import Moment, Plan, Policy, World
from tests.samples.domain import NOW, calm, carried_out, host, idle, instance, job, pool, world

BOUND: Final = Policy().starvation_bound
LONGEST: Final = timedelta(minutes=10)
STEP: Final = timedelta(seconds=30)
WIDE: Final = Resources(4, 4096, 10)
NARROW: Final = Resources(2, 2048, 10)
FOUR: Final = Resources(4, 65536, 1000)

small = pool("small", labels=frozenset({"small"}), resources=NARROW, max_runners=1000)
big = pool("big", labels=frozenset({"big"}), resources=WIDE, max_runners=1000, entity_id="entity-2")
WAITING: Final = job(0, "big", entity_id="entity-2", queued_at=NOW)


def entity(name: str, **more: object) -> Entity:
    return msgspec.structs.replace(Entity(name, "endpoint-1", EntityKind.REPOSITORY, "o", name, "token"), **more)


def busy(number: int, of: Pool, on: str = "host-1", **more: object) -> Instance:
    state = {"status": Status.RUNNING, "runner_status": RunnerStatus.ACTIVE, "job_id": f"job-x{number}"}
    fields = {"pool_id": of.id, "entity_id": of.entity_id, "labels": of.labels, "resources": of.resources, "host": on}
    return instance(number, **fields | state | more)


class Life:
    """A fleet whose every free place somebody wants: of each greedy pool there is always a fresh job waiting."""

    def __init__(self, pools: tuple[Pool, ...], hosts: tuple[Host, ...], greedy: tuple[Pool, ...], seed: int) -> None:
        self.pools, self.hosts, self.greedy = pools, hosts, greedy
        self.entities: tuple[Entity, ...] = ()
        self.chance = random.Random(seed)  # noqa: S311 (to be repeated, not to be secret)
        self.running: dict[str, tuple[Instance, datetime]] = {}
        self.now = NOW - timedelta(minutes=20)
        self._numbers = iter(range(1, 10**6))

    def until_placed(self, jobs: tuple[Job, ...], most: timedelta) -> dict[str, timedelta]:
        """How long each of the jobs waits, for as many as are placed in the time."""
        waited: dict[str, timedelta] = {}
        while self.now < NOW + most and len(waited) < len(jobs):
            self.running = {name: one for name, one in self.running.items() if one[1] > self.now}
            left = tuple(one for one in jobs if one.id not in waited and one.queued_at <= self.now)
            for create in self._plan(left).creates:
                lasts = LONGEST * self.chance.uniform(0.3, 1)
                number = next(self._numbers)
                made = busy(number, create.pool, create.host, created_at=self.now, provider=create.pool.provider)
                self.running[made.id] = (made, self.now + lasts)
                if create.for_job in {one.id for one in left}:
                    waited[create.for_job] = self.now - NOW
            self.now += STEP
        return waited

    def _plan(self, left: tuple[Job, ...]) -> Plan:
        wants = tuple(
            job(10_000 + n, *of.labels, entity_id=of.entity_id, queued_at=self.now)
            for n, of in enumerate(self.greedy * 5)
        )
        seen = msgspec.structs.replace(
            world(left + wants, tuple(one for one, _ in self.running.values()), self.pools, self.hosts, {"cloud": 1}),
            entities=self.entities,
        )
        return plan_on(Board.of(seen), Moment(self.now))


hosts_of_four = (host(capacity=FOUR),)
lonely = msgspec.structs.replace(big, share_hosts=False, flavor=Flavor("other", NARROW))


@pytest.mark.parametrize(
    ("pools", "hosts", "greedy", "entities"),
    [
        ((small, big), hosts_of_four, (small,), ()),
        ((small, big), (host("a", capacity=FOUR), host("b", capacity=FOUR)), (small,), ()),
        ((small, lonely), hosts_of_four, (small,), ()),
        (
            (small, msgspec.structs.replace(big, entity_id="entity-1")),
            hosts_of_four,
            (small,),
            (entity("entity-1", quota=2),),
        ),
    ],
    ids=["twice as large", "two hosts", "a host without strangers", "of a repository with a quota"],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_job_gets_its_machine_within_the_bound_and_the_longest_running_time(
    pools: tuple[Pool, ...], hosts: tuple[Host, ...], greedy: tuple[Pool, ...], entities: tuple[Entity, ...], seed: int
) -> None:
    life = Life(pools, hosts, greedy, seed)
    life.entities = entities
    wanted = job(0, "big", entity_id=pools[1].entity_id, queued_at=NOW)
    waited = life.until_placed((wanted,), timedelta(hours=4))
    assert waited[wanted.id] <= BOUND + LONGEST + STEP


def test_several_such_jobs_have_what_they_need_kept_at_the_same_time() -> None:
    hosts = tuple(host(name, capacity=FOUR) for name in ("a", "b", "c"))
    wanted = tuple(job(n, "big", entity_id="entity-2", queued_at=NOW) for n in range(3))
    waited = Life((small, big), hosts, (small,), seed=1).until_placed(wanted, timedelta(hours=4))
    assert sorted(waited) == ["job-0", "job-1", "job-2"]
    assert max(waited.values()) <= BOUND + LONGEST + STEP


def late(seen: World) -> tuple[Board, Plan]:
    """A minute after the bound."""
    board = Board.of(seen)
    return board, plan_on(board, Moment(NOW + BOUND + timedelta(minutes=1)))


def beside_one(*more: Instance, jobs: tuple[Job, ...] = (), pools: tuple[Pool, ...] = (small, big)) -> World:
    """A host with room for one more small machine, and one that waits for twice as much."""
    fresh = tuple(job(n, "small", queued_at=NOW + BOUND) for n in (1, 2))
    return world((WAITING, *fresh, *jobs), (busy(1, small), *more), pools, hosts_of_four)


def test_nothing_is_kept_before_the_bound_is_over_and_the_next_look_is_when_it_is() -> None:
    board = Board.of(world((WAITING,), (busy(1, small),), (small, big), hosts_of_four))
    early = plan_on(board, Moment(NOW + timedelta(minutes=1)))
    assert (early.holds, early.wake_at) == ((), NOW + BOUND)
    assert [hold.host for hold in plan_on(board, Moment(NOW + BOUND)).holds] == ["host-1"]


def test_who_waits_too_long_and_who_is_held_back_for_it_are_told() -> None:
    board, decided = late(beside_one())
    assert decided.creates == ()
    assert [(hold.job_id, hold.host) for hold in decided.holds] == [("job-0", "host-1")]
    mine, theirs = (why_waiting(board, decided, job_id) for job_id in ("job-0", "job-1"))
    assert "host host-1 is full (4 vCPU wanted, 2 free)" in mine
    assert "the next place in pool big and room on host host-1 is kept for it" in mine
    assert theirs == "pool small: host host-1 is kept for job job-0, which has waited since 12:00:00 UTC"
    assert "host host-1, which is kept for job job-0" in why_waiting(board, decided, "job-1", brief=True)


def test_the_next_place_in_a_quota_is_kept_too() -> None:
    other = pool("other", labels=frozenset({"other"}), resources=NARROW, entity_id="entity-2")
    seen = beside_one(
        busy(2, other, on="elsewhere"),
        jobs=(job(9, "other", entity_id="entity-2", queued_at=NOW + BOUND),),
        pools=(big, other),
    )
    seen = msgspec.structs.replace(
        seen, entities=(entity("entity-2", quota=2),), hosts=(*seen.hosts, host("free", capacity=NARROW))
    )
    board, decided = late(seen)
    assert decided.creates == ()
    reason = why_waiting(board, decided, "job-9")
    assert reason.startswith("pool other: the next place in its repository's quota is kept for job job-0, which has")


def test_others_get_the_room_that_is_left_beside_what_is_kept() -> None:
    """The job waits for its pool alone: the host has room for it and for more."""
    full = msgspec.structs.replace(big, max_runners=1)
    wide = host(capacity=Resources(10, 65536, 1000))
    fresh = tuple(job(n, "small", queued_at=NOW + BOUND) for n in (1, 2, 3))
    _, decided = late(world((WAITING, *fresh), (busy(1, full),), (small, full), (wide,)))
    assert [hold.host for hold in decided.holds] == ["host-1"]
    assert [create.for_job for create in decided.creates] == ["job-1"]


@pytest.mark.parametrize(
    ("pools", "hosts", "entities"),
    [
        ((small, msgspec.structs.replace(big, flavor=Flavor("other", Resources(5, 1024, 10)))), hosts_of_four, ()),
        ((small, msgspec.structs.replace(big, arch="arm64")), hosts_of_four, ()),
        ((small, msgspec.structs.replace(big, image="plan9")), hosts_of_four, ()),
        ((small, msgspec.structs.replace(big, max_runners=0)), hosts_of_four, ()),
        ((small, msgspec.structs.replace(big, enabled=False)), hosts_of_four, ()),
        ((small, big), hosts_of_four, (entity("entity-2", quota=0),)),
        ((small, big), (*hosts_of_four, host("b", capacity=FOUR, connected=False)), (entity("entity-2", quota=0),)),
        ((small,), hosts_of_four, ()),
    ],
    ids=["too large", "no such host", "no such image", "pool of none", "disabled", "quota of none", "away", "no pool"],
)
def test_nothing_is_kept_for_a_job_that_can_never_be_placed(
    pools: tuple[Pool, ...], hosts: tuple[Host, ...], entities: tuple[Entity, ...]
) -> None:
    seen = msgspec.structs.replace(beside_one(pools=pools), hosts=hosts, entities=entities)
    _, decided = late(seen)
    assert decided.holds == ()
    assert [create.for_job for create in decided.creates] == ["job-1"]


def test_the_host_is_the_one_whose_machines_have_run_the_longest_and_stays_it() -> None:
    hosts = tuple(host(name, capacity=FOUR) for name in ("a", "b", "c"))
    since = {"a": NOW - timedelta(minutes=1), "b": NOW - timedelta(minutes=9), "c": NOW - timedelta(minutes=5)}
    running = tuple(
        busy(n, small, on=name, created_at=made - timedelta(minutes=n % 2))
        for n, (name, made) in enumerate((name, made) for name, made in since.items() for _ in range(2))
    )
    _, decided = late(world((WAITING,), running, (small, big), hosts))
    assert [hold.host for hold in decided.holds] == ["b"]
    # Half of another host becomes free: it is given to who fits there, and what is kept stays.
    some_ended = tuple(one for one in running if one.id != "instance-0")
    _, decided = late(world((WAITING, job(1, "small", queued_at=NOW + BOUND)), some_ended, (small, big), hosts))
    assert [hold.host for hold in decided.holds] == ["b"]
    assert [(create.for_job, create.host) for create in decided.creates] == [("job-1", "a")]


def test_a_runner_that_a_pool_would_keep_idle_makes_way_and_is_not_made_again_there() -> None:
    keeping = msgspec.structs.replace(small, min_idle=1)
    kept = idle(1, labels=small.labels, pool_id=small.id, resources=NARROW, idle_since=NOW)
    board, decided = late(world((WAITING,), (kept,), (keeping, big), hosts_of_four))
    assert [retire.instance_id for retire in decided.retires] == ["instance-1"]
    assert "job-0" in decided.retires[0].reason
    board.drop_instance("instance-1")
    then = plan_on(board, Moment(board.now))
    assert [create.for_job for create in then.creates] == ["job-0"]
    assert plan_on(carried_out(board, then), Moment(board.now)).creates == ()


def test_no_more_is_kept_than_is_found_in_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "MOST", 2)
    hosts = tuple(host(f"h{n}", capacity=FOUR) for n in range(4))
    running = tuple(busy(n, small, on=f"h{n}") for n in range(4))
    jobs = tuple(job(100 + n, "big", entity_id="entity-2", queued_at=NOW) for n in range(4))
    _, decided = late(world(jobs, running, (small, big), hosts))
    assert [hold.job_id for hold in decided.holds] == ["job-100", "job-101"]


@calm
@given(st.integers(0, 10**6), st.data())
def test_whatever_ends_when_the_bound_holds(seed: int, data: st.DataObject) -> None:
    """Hosts, sizes, pools and quotas at random, beside the same greed."""
    sizes = st.sampled_from([NARROW, WIDE, Resources(1, 8192, 10), Resources(3, 1024, 500)])
    kinds = [
        msgspec.structs.replace(
            one,
            flavor=Flavor("drawn", data.draw(sizes)),
            share_hosts=data.draw(st.booleans()),
            max_runners=data.draw(st.sampled_from([1, 3, 1000])),
            provider=data.draw(st.sampled_from(["libvirt", "libvirt", "libvirt", "cloud"])),
        )
        for one in (
            small,
            big,
            pool("third", labels=frozenset({"third"}), entity_id=data.draw(st.sampled_from(["entity-2", "entity-3"]))),
        )
    ]
    hosts = tuple(host(f"h{n}", capacity=FOUR) for n in range(data.draw(st.integers(1, 3))))
    life = Life(tuple(kinds), hosts, (kinds[0], kinds[2]), seed)
    life.entities = (entity("entity-2", quota=data.draw(st.sampled_from([None, 1, 2]))),)
    waited = life.until_placed((WAITING,), timedelta(hours=1))
    assert waited[WAITING.id] <= BOUND + LONGEST + STEP
