"""The planner: what it must never do in any world, and what it does in small ones."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.fleet import Host, Pool
from coordinator.domain.instance import COMING, Instance, RunnerStatus, Status
from coordinator.domain.job import Job
from coordinator.domain.labels import serve
from coordinator.domain.planner import plan
from coordinator.domain.resources import Resources
from coordinator.domain.world import Create, Plan, Policy, World
from tests.samples.domain import NOW, SMALL, calm, host, idle, instance, job, pool, world

LABELS = ("linux", "x64", "gpu")
ENTITIES = ("entity-1", "entity-2")
CLOUD = "cloud"
IDLE_GRACE = Policy().idle_grace

some_labels = st.frozensets(st.sampled_from(LABELS), min_size=1)
entity = st.sampled_from(ENTITIES)
amounts = st.sampled_from([Resources(1, 512, 5), SMALL, Resources(8, 16384, 100)])
rest = st.sampled_from([None, NOW - timedelta(seconds=1), NOW + timedelta(seconds=30)])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    pools = [
        pool(
            f"p{n}",
            entity_id=draw(entity),
            labels=draw(some_labels),
            provider=draw(st.sampled_from(["libvirt", "libvirt", "lxd", CLOUD])),
            image=draw(st.sampled_from(["debian", "debian", "plan9"])),
            arch=draw(st.sampled_from(["amd64", "amd64", "arm64"])),
            resources=draw(amounts),
            max_runners=draw(st.integers(0, 3)),
            enabled=draw(st.sampled_from([True, True, True, False])),
            priority=draw(st.integers(0, 1)),
            cool_until=draw(rest),
        )
        for n in range(draw(st.integers(0, 4)))
    ]
    hosts = [
        host(
            f"h{n}",
            arch=draw(st.sampled_from(["amd64", "amd64", "arm64"])),
            capacity=draw(st.sampled_from([Resources(4, 4096, 30), Resources(16, 32768, 500)])),
            drivers={"libvirt": draw(st.sampled_from([frozenset({"debian"}), frozenset({"debian", "plan9"})]))},
            connected=draw(st.sampled_from([True, True, False])),
            cool_until=draw(rest),
        )
        for n in range(draw(st.integers(0, 3)))
    ]
    jobs = [
        job(n, *draw(some_labels), entity_id=draw(entity), queued_at=NOW - timedelta(seconds=draw(st.integers(0, 5))))
        for n in range(draw(st.integers(0, 8)))
    ]
    return world(tuple(jobs), tuple(_instances(draw, pools, hosts)), tuple(pools), tuple(hosts), {CLOUD: 4})


def _instances(draw: st.DrawFn, pools: Sequence[Pool], hosts: Sequence[Host]) -> list[Instance]:
    if not pools:
        return []
    made = []
    for n in range(draw(st.integers(0, 5))):
        of = draw(st.sampled_from(list(pools)))
        made.append(
            instance(
                n,
                pool_id=of.id,
                entity_id=of.entity_id,
                labels=of.labels,
                provider=of.provider,
                host=draw(st.sampled_from([h.name for h in hosts])) if hosts and of.provider != CLOUD else "",
                resources=of.resources,
                status=draw(st.sampled_from([s for s in Status if s is not Status.DELETED])),
                runner_status=draw(st.sampled_from(RunnerStatus)),
                idle_since=draw(st.sampled_from([None, NOW, NOW - timedelta(hours=1)])),
                bootstrap_deadline=NOW + timedelta(minutes=draw(st.integers(-5, 5))),
                job_id=draw(st.sampled_from(["", "", "job-x"])),
            )
        )
    return made


def waiting_jobs(seen: World, decided: Plan) -> list[str]:
    """The jobs that the plan says are waiting: of each class, so many from the first named on."""
    found = []
    for wait in decided.waits:
        alike = [one for one in seen.jobs if (one.entity_id, one.labels) == wait.job_class[:2]]
        alike.sort(key=lambda one: (one.queued_at, one.id))
        first = next(n for n, one in enumerate(alike) if one.id == wait.job_id)
        found += [one.id for one in alike[first:]]
        assert len(alike) - first == wait.count
    return found


@calm
@given(worlds())
def test_no_pool_and_no_host_is_ever_overfilled(seen: World) -> None:
    creates = plan(seen, NOW).creates
    in_pool = Counter(one.pool_id for one in seen.instances) + Counter(create.pool.id for create in creates)
    for create in creates:
        assert in_pool[create.pool.id] <= create.pool.max_runners
    for one in seen.hosts:
        new = [create.pool.resources for create in creates if create.host == one.name]
        if new:
            old = [i.resources for i in seen.instances if i.host == one.name]
            assert one.capacity.holds(sum([*old, *new], Resources()))


@calm
@given(worlds())
def test_a_machine_is_made_only_where_it_can_be_and_for_whom_it_may(seen: World) -> None:
    jobs = {one.id: one for one in seen.jobs}
    hosts = {one.name: one for one in seen.hosts}
    for create in plan(seen, NOW).creates:
        wanted = jobs[create.for_job]
        assert create.pool.enabled
        assert create.pool.entity_id == wanted.entity_id
        assert serve(create.pool.labels, wanted.labels)
        assert create.pool.cool_until is None or create.pool.cool_until <= NOW
        if create.pool.provider == CLOUD:
            assert create.host == ""
            continue
        on = hosts[create.host]
        assert on.connected
        assert on.arch == create.pool.arch
        assert create.pool.image in on.drivers[create.pool.provider]
        assert on.cool_until is None or on.cool_until <= NOW


@calm
@given(worlds())
def test_every_job_has_a_machine_coming_or_a_reason(seen: World) -> None:
    decided = plan(seen, NOW)
    made = [create.for_job for create in decided.creates]
    waiting = waiting_jobs(seen, decided)
    assert len(set(made + waiting)) == len(made + waiting)
    assert all(wait.code and wait.reason for wait in decided.waits)
    covered = [one for one in seen.jobs if one.id not in {*made, *waiting}]
    assert _matched(covered, [i for i in seen.instances if i.serves_demand]) == len(covered)


@calm
@given(worlds())
def test_no_machine_is_made_while_a_runner_that_could_do_it_has_nothing_to_do(seen: World) -> None:
    decided = plan(seen, NOW)
    ids = {create.for_job for create in decided.creates} | set(waiting_jobs(seen, decided))
    left = [one for one in seen.jobs if one.id in ids]
    covered = [one for one in seen.jobs if one not in left]
    serving = [i for i in seen.instances if i.serves_demand]
    # Each runner that could have had a job that is left has another.
    for one in left:
        could = [i for i in serving if i.entity_id == one.entity_id and serve(i.labels, one.labels)]
        assert len(could) <= len(covered)


def _matched(jobs: Sequence[Job], runners: Sequence[Instance]) -> int:
    """The size of the largest matching (augmenting paths)."""
    of: dict[str, Job] = {}

    def find(one: Job, tried: set[str]) -> bool:
        for runner in runners:
            fits = runner.entity_id == one.entity_id and serve(runner.labels, one.labels)
            if not fits or runner.id in tried:
                continue
            tried.add(runner.id)
            if runner.id not in of or find(of[runner.id], tried):
                of[runner.id] = one
                return True
        return False

    return sum(find(one, set()) for one in jobs)


@calm
@given(worlds())
def test_the_same_world_gives_the_same_plan_in_whatever_order_it_is_told(seen: World) -> None:
    mixed = msgspec.structs.replace(
        seen,
        jobs=seen.jobs[::-1],
        instances=seen.instances[::-1],
        pools=seen.pools[::-1],
        hosts=seen.hosts[::-1],
    )
    first, other = plan(seen, NOW), plan(mixed, NOW)
    assert (first.creates, first.waits, first.wake_at) == (other.creates, other.waits, other.wake_at)
    assert set(first.retires) == set(other.retires)


@calm
@given(worlds())
def test_of_equal_jobs_the_oldest_gets_the_machine(seen: World) -> None:
    decided = plan(seen, NOW)
    jobs = {one.id: one for one in seen.jobs}
    for waits in (jobs[job_id] for job_id in waiting_jobs(seen, decided)):
        for create in decided.creates:
            gets = jobs[create.for_job]
            if (gets.entity_id, gets.labels) == (waits.entity_id, waits.labels):
                assert (gets.queued_at, gets.id) < (waits.queued_at, waits.id)
    for entity_id in ENTITIES:
        creates = [create.for_job for create in decided.creates if create.pool.entity_id == entity_id]
        order = [(jobs[job_id].queued_at, job_id) for job_id in creates]
        assert order == sorted(order)


@calm
@given(worlds())
def test_no_busy_runner_is_retired_and_none_before_its_time(seen: World) -> None:
    instances = {one.id: one for one in seen.instances}
    retires = plan(seen, NOW).retires
    assert len({retire.instance_id for retire in retires}) == len(retires)
    for retire in retires:
        one = instances[retire.instance_id]
        assert one.status in COMING
        assert retire.reason
        if one.runner_status is RunnerStatus.IDLE:
            assert not one.job_id
            assert one.idle_since is not None
            assert one.idle_since + IDLE_GRACE <= NOW
        else:
            assert one.runner_status in (RunnerStatus.PENDING, RunnerStatus.INSTALLING)
            assert one.bootstrap_deadline <= NOW


@calm
@given(worlds())
def test_the_next_look_is_in_the_future(seen: World) -> None:
    wake_at = plan(seen, NOW).wake_at
    assert wake_at is None or wake_at > NOW


@calm
@given(st.integers(0, 6), st.integers(0, 6))
def test_what_is_on_its_way_is_not_ordered_again(jobs: int, coming: int) -> None:
    big = host(capacity=Resources(64, 65536, 1000))
    seen = world(
        tuple(job(n) for n in range(jobs)),
        tuple(instance(n) for n in range(coming)),
        (pool(max_runners=20),),
        (big,),
    )
    assert len(plan(seen, NOW).creates) == max(0, jobs - coming)


def test_a_job_gets_a_machine_on_the_emptiest_host() -> None:
    hosts = (host("a", capacity=Resources(8, 8192, 100)), host("b"), host("c", connected=False))
    assert plan(world((job(),), hosts=hosts), NOW).creates == (Create(pool(), "b", "job-1"),)


def test_higher_priority_first_and_failure_spills_to_the_next_pool() -> None:
    pools = (pool("low"), pool("high", priority=5))
    assert [c.pool.name for c in plan(world((job(),), pools=pools), NOW).creates] == ["high"]
    resting = (pool("low"), pool("high", priority=5, failures=3, cool_until=NOW + timedelta(seconds=9)))
    decided = plan(world((job(),), pools=resting), NOW)
    assert [c.pool.name for c in decided.creates] == ["low"]
    assert decided.wake_at == NOW + timedelta(seconds=9)


def test_labels_match_as_a_superset_whatever_their_case() -> None:
    wide = pool(labels=job(1, "linux", "x64", "self-hosted").labels)
    assert plan(world((job(1, "Self-Hosted", "LINUX"),), pools=(wide,)), NOW).creates
    assert [w.code for w in plan(world((job(1, "linux", "gpu"),), pools=(wide,)), NOW).waits] == ["no_pool"]


@pytest.mark.parametrize(
    ("pools", "hosts", "reason"),
    [
        ((pool(enabled=False),), (host(),), "pool small: it is disabled"),
        ((pool(max_runners=0),), (host(),), "all its 0 runners are in use"),
        (
            (pool(cool_until=NOW + timedelta(minutes=1), failures=4),),
            (host(),),
            "rests until 12:01:00 UTC after 4 failures",
        ),
        (
            (pool(cool_until=NOW + timedelta(minutes=1), failures=4, fault="HTTP 401"),),
            (host(),),
            "rests until 12:01:00 UTC after 4 failures; the last: HTTP 401",
        ),
        ((pool(),), (), "no agent offers the provider 'libvirt'"),
        ((pool(),), (host(connected=False),), "host host-1 is not connected"),
        ((pool(),), (host(arch="arm64"),), "host host-1 is arm64, the pool wants amd64"),
        ((pool(image="plan9"),), (host(),), "does not have the image 'plan9'"),
        ((pool(provider="cloud"),), (host(),), "provider 'cloud', and no [[provider]] of that name is configured"),
        ((pool(provider="lxd"),), (host(), host("b", drivers={"lxd": frozenset()})), "host-1 has no provider 'lxd'"),
        ((pool(),), (host(cool_until=NOW + timedelta(seconds=5), failures=2),), "rests until 12:00:05 UTC"),
        ((pool(),), (host(capacity=Resources(1, 1024, 5)),), "2 vCPU wanted, 1 free; 2048 MiB memory wanted"),
        ((pool(entity_id="entity-2"),), (host(),), "no pool of its repository has all its labels (linux)"),
    ],
)
def test_a_job_that_waits_says_why(pools: tuple[Pool, ...], hosts: tuple[Host, ...], reason: str) -> None:
    decided = plan(world((job(),), pools=pools, hosts=hosts), NOW)
    assert decided.creates == ()
    assert reason in decided.waits[0].reason


def test_a_machine_that_is_being_deleted_still_takes_its_place() -> None:
    full = world(
        (job(),), (idle(status=Status.DELETING, runner_status=RunnerStatus.TERMINATED),), (pool(max_runners=1),)
    )
    assert plan(full, NOW).creates == ()


def test_an_idle_runner_is_kept_for_its_grace_and_while_a_job_needs_it() -> None:
    end = NOW + IDLE_GRACE
    alone = world((), (idle(),))
    assert plan(alone, end - timedelta(microseconds=1)).retires == ()
    assert plan(alone, end - timedelta(microseconds=1)).wake_at == end
    assert [retire.instance_id for retire in plan(alone, end).retires] == ["instance-1"]
    assert plan(world((job(),), (idle(),)), end).retires == ()


def test_a_runner_that_never_came_is_retired_at_its_deadline() -> None:
    deadline = NOW + timedelta(minutes=20)
    coming = world((), (instance(),))
    assert plan(coming, deadline - timedelta(seconds=1)).retires == ()
    assert plan(coming, NOW).wake_at == deadline
    assert [retire.instance_id for retire in plan(coming, deadline).retires] == ["instance-1"]
