"""The planner: what it must never do in any world, and what it does in small ones."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.fleet import Balancer, Entity, EntityKind, Host, Placement, Pool
from coordinator.domain.instance import COMING, Instance, RunnerStatus, Status
from coordinator.domain.job import Job
from coordinator.domain.labels import serve
from coordinator.domain.planner import plan, plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.resources import Resources
from coordinator.domain.world import Budget, Create, Moment, Plan, Policy, World
from tests.samples.domain import NOW, SMALL, calm, host, idle, instance, job, pool, world

LABELS = ("linux", "x64", "gpu")
ENTITIES = ("entity-1", "entity-2")
TOKENS = ("token-1", "token-2")
CLOUD = "cloud"
MAKING = (Status.PENDING_CREATE, Status.CREATING)
IDLE_GRACE = Policy().idle_grace
IDLE_TRUST = Policy().idle_trust
STARVED = Policy().starvation_bound
OFTEN_NOT = st.sampled_from([False, False, False, True])

some_labels = st.frozensets(st.sampled_from(LABELS), min_size=1)
entity = st.sampled_from(ENTITIES)
GPU = (("gpu", 1),)
amounts = st.sampled_from(
    [
        *(Resources(1, 512, 5), SMALL, Resources(8, 16384, 100), Resources(1, 4096, 5), Resources(1, 512, 30)),
        *(Resources(1, 512, 5, GPU), Resources(1, 512, 5, (("fpga", 1), ("gpu", 2)))),
    ]
)
capacities = st.builds(
    Resources,
    st.sampled_from([4, 16]),
    st.sampled_from([4096, 32768]),
    st.sampled_from([30, 500]),
    st.sampled_from([(), GPU, (("fpga", 1), ("gpu", 3))]),
)
rest = st.sampled_from([None, NOW - timedelta(seconds=1), NOW + timedelta(seconds=30)])
age = st.one_of(st.integers(0, 5), st.integers(1795, 1805), st.integers(0, 7200)).map(lambda s: timedelta(seconds=s))
budgets = st.dictionaries(st.sampled_from(TOKENS), st.integers(0, 3), max_size=2).map(
    lambda calls: {token: Budget(left, NOW + timedelta(seconds=20)) for token, left in calls.items()}
)


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
            enabled=not draw(OFTEN_NOT),
            priority=draw(st.integers(0, 1)),
            cool_until=draw(rest),
            min_idle=draw(st.sampled_from([0, 0, 0, 1, 2])),
            generation=draw(st.integers(0, 1)),
            placement=draw(st.sampled_from(Placement)),
            share_hosts=not draw(OFTEN_NOT),
        )
        for n in range(draw(st.integers(0, 4)))
    ]
    hosts = [
        host(
            f"h{n}",
            arch=draw(st.sampled_from(["amd64", "amd64", "arm64"])),
            capacity=draw(capacities),
            passes=frozenset() if draw(OFTEN_NOT) else frozenset({"libvirt"}),
            drivers={"libvirt": draw(st.sampled_from([frozenset({"debian"}), frozenset({"debian", "plan9"})]))},
            connected=not draw(OFTEN_NOT),
            cool_until=draw(rest),
            emulated=draw(st.sampled_from([{}, {}, {("libvirt", "arm64"): frozenset({"debian"})}])),
        )
        for n in range(draw(st.integers(0, 3)))
    ]
    jobs = [
        job(n, *draw(some_labels), entity_id=draw(entity), queued_at=NOW - draw(age))
        for n in range(draw(st.integers(0, 8)))
    ]
    return msgspec.structs.replace(
        world(tuple(jobs), tuple(_instances(draw, pools, hosts)), tuple(pools), tuple(hosts), {CLOUD: 2}),
        entities=tuple(_entity(draw, name) for name in ENTITIES if draw(st.booleans())),
        policy=Policy(creates_per_host=draw(st.sampled_from([1, 2, 16]))),
    )


def _entity(draw: st.DrawFn, name: str) -> Entity:
    return Entity(
        name,
        "endpoint-1",
        EntityKind.REPOSITORY,
        "o",
        name,
        draw(st.sampled_from(TOKENS)),
        weight=draw(st.sampled_from([0.5, 1.0, 2.0])),
        quota=draw(st.sampled_from([None, None, 0, 2, 3])),
        priority=draw(st.integers(0, 1)),
        label_priorities=draw(st.dictionaries(st.sampled_from(LABELS), st.integers(0, 2), max_size=2)),
        balancer=draw(st.sampled_from(Balancer)),
    )


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
                pool_generation=draw(st.integers(0, 1)),
                created_at=NOW - draw(age),
            )
        )
    return made


def decide(seen: World, left: Mapping[str, Budget] = {}) -> Plan:
    return plan_on(Board.of(seen), Moment(NOW, left))


def entities_of(seen: World) -> dict[str, Entity]:
    """Those that are not declared have no limits."""
    plain = {name: Entity(name, "", EntityKind.REPOSITORY, "", "", "") for name in ENTITIES}
    return plain | {one.id: one for one in seen.entities}


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
def test_no_pool_and_no_quota_is_ever_overfilled(seen: World) -> None:
    creates = plan(seen, NOW).creates
    in_pool = Counter(one.pool_id for one in seen.instances) + Counter(create.pool.id for create in creates)
    of_entity = Counter(one.entity_id for one in seen.instances) + Counter(c.pool.entity_id for c in creates)
    entities = entities_of(seen)
    for create in creates:
        assert in_pool[create.pool.id] <= create.pool.max_runners
        quota = entities[create.pool.entity_id].quota
        assert quota is None or of_entity[create.pool.entity_id] <= quota


@calm
@given(worlds())
def test_no_host_is_ever_overfilled_and_neither_hosts_nor_clouds_make_too_many_at_once(seen: World) -> None:
    creates = plan(seen, NOW).creates
    making = Counter(i.host or i.provider for i in seen.instances if i.status in MAKING)
    making.update(create.host or create.pool.provider for create in creates)
    for one in seen.hosts:
        new = [create.pool.resources for create in creates if create.host == one.name]
        if new:
            old = [i.resources for i in seen.instances if i.host == one.name]
            assert one.capacity.holds(sum([*old, *new], Resources()))
            assert making[one.name] <= seen.policy.creates_per_host
    if any(create.pool.provider == CLOUD for create in creates):
        assert making[CLOUD] <= seen.clouds[CLOUD]


@calm
@given(worlds())
def test_nobody_is_placed_beside_strangers_where_one_of_the_two_minds(seen: World) -> None:
    shy = {one.id for one in seen.pools if not one.share_hosts}
    here = [(i.host, i.entity_id, i.pool_id) for i in seen.instances]
    for create in plan(seen, NOW).creates:
        for place, entity_id, pool_id in here:
            beside = create.host and place == create.host and entity_id != create.pool.entity_id
            assert not (beside and shy & {pool_id, create.pool.id})
        here.append((create.host, create.pool.entity_id, create.pool.id))


@calm
@given(worlds(), budgets)
def test_no_more_runners_are_planned_than_may_be_registered(seen: World, left: dict[str, Budget]) -> None:
    decided = decide(seen, left)
    entities = entities_of(seen)
    asked = Counter(entities[create.pool.entity_id].credentials_id for create in decided.creates)
    for token, budget in left.items():
        assert asked[token] <= budget.calls


@calm
@given(worlds(), budgets)
def test_the_order_is_that_of_the_policy(seen: World, left: dict[str, Budget]) -> None:
    """Starved jobs first, by their age; then by priority, share and age: whoever gets a machine was due before all
    that get theirs later."""
    jobs = {one.id: one for one in seen.jobs}
    entities = entities_of(seen)
    count = Counter(one.entity_id for one in seen.instances)

    def turn(one: Job) -> tuple[object, ...]:
        if one.queued_at <= NOW - STARVED:
            return (0, one.queued_at, one.id)
        of = entities[one.entity_id]
        priority = max((of.label_priorities[x] for x in one.labels if x in of.label_priorities), default=of.priority)
        return (1, -priority, count[one.entity_id] / of.weight, one.queued_at, one.id)

    made = [jobs[create.for_job] for create in decide(seen, left).creates if create.for_job]
    for number, one in enumerate(made):
        assert all(turn(one) < turn(later) for later in made[number + 1 :])
        count[one.entity_id] += 1


@calm
@given(worlds(), budgets)
def test_nobody_waits_while_there_is_room_that_is_not_kept_for_another(seen: World, left: dict[str, Budget]) -> None:
    decided = decide(seen, left)
    jobs = {one.id: one for one in seen.jobs}
    waiting = waiting_jobs(seen, decided)
    for one in (jobs[job_id] for job_id in waiting):
        before = itertools.takewhile(lambda hold: hold.job_id != one.id, decided.holds)  # noqa: B023 (used at once)
        taken = [*decided.creates, *(Create(hold.pool, hold.host, hold.job_id) for hold in before)]
        for able in seen.pools:
            if able.entity_id == one.entity_id and serve(able.labels, one.labels):
                assert not _has_room(seen, able, taken, left)


def _has_room(seen: World, able: Pool, taken: Sequence[Create], left: Mapping[str, Budget]) -> bool:
    of = entities_of(seen)[able.entity_id]
    in_pool = sum(i.pool_id == able.id for i in seen.instances) + sum(c.pool.id == able.id for c in taken)
    of_entity = sum(i.entity_id == of.id for i in seen.instances) + sum(c.pool.entity_id == of.id for c in taken)
    asked = sum(entities_of(seen)[c.pool.entity_id].credentials_id == of.credentials_id for c in taken)
    if not able.enabled or (able.cool_until is not None and able.cool_until > NOW):
        return False
    if in_pool >= able.max_runners or (of.quota is not None and of_entity >= of.quota):
        return False
    if of.credentials_id in left and asked >= left[of.credentials_id].calls:
        return False
    making = Counter(i.host or i.provider for i in seen.instances if i.status in MAKING)
    making.update(c.host or c.pool.provider for c in taken)
    if able.provider == CLOUD:
        return making[CLOUD] < seen.clouds[CLOUD]
    return any(making[one.name] < seen.policy.creates_per_host and _takes(seen, one, able, taken) for one in seen.hosts)


def _takes(seen: World, one: Host, able: Pool, taken: Sequence[Create]) -> bool:
    if not one.connected or (one.cool_until is not None and one.cool_until > NOW):
        return False
    shy = {p.id for p in seen.pools if not p.share_hosts}
    here = [(i.entity_id, i.pool_id, i.resources) for i in seen.instances if i.host == one.name]
    here += [(c.pool.entity_id, c.pool.id, c.pool.resources) for c in taken if c.host == one.name]
    if any(entity_id != able.entity_id and shy & {pool_id, able.id} for entity_id, pool_id, _ in here):
        return False
    used = sum((resources for _, _, resources in here), able.resources)
    return able.image in _own_images(one, able) and one.capacity.holds(used)


def _own_images(one: Host, of: Pool) -> frozenset[str]:
    """What the host has for the pool's provider and architecture."""
    if one.arch == of.arch:
        return one.drivers.get(of.provider, frozenset())
    return one.emulated.get((of.provider, of.arch), frozenset())


@calm
@given(worlds(), budgets)
def test_what_is_kept_is_of_use_to_whom_it_is_kept_for(seen: World, left: dict[str, Budget]) -> None:
    decided = decide(seen, left)
    jobs = {one.id: one for one in seen.jobs}
    waiting = waiting_jobs(seen, decided)
    hosts = {one.name: one for one in seen.hosts}
    for hold in decided.holds:
        assert hold.job_id in waiting
        assert jobs[hold.job_id].queued_at == hold.since <= NOW - STARVED
        assert hold.pool.entity_id == jobs[hold.job_id].entity_id
        assert serve(hold.pool.labels, jobs[hold.job_id].labels)
        assert sum(one.pool.id == hold.pool.id for one in decided.holds) <= hold.pool.max_runners
        if hold.host:
            kept = [one.pool.resources for one in decided.holds if one.host == hold.host]
            assert hosts[hold.host].capacity.holds(sum(kept, Resources()))
    assert len({hold.job_id for hold in decided.holds}) == len(decided.holds)


@calm
@given(worlds())
def test_a_machine_is_made_only_where_it_can_be_and_for_whom_it_may(seen: World) -> None:
    jobs = {one.id: one for one in seen.jobs}
    hosts = {one.name: one for one in seen.hosts}
    for create in plan(seen, NOW).creates:
        assert create.pool.enabled
        if create.for_job:
            wanted = jobs[create.for_job]
            assert create.pool.entity_id == wanted.entity_id
            assert serve(create.pool.labels, wanted.labels)
        else:
            assert create.pool.min_idle
        assert create.pool.cool_until is None or create.pool.cool_until <= NOW
        if create.pool.provider == CLOUD:
            assert create.host == ""
            continue
        on = hosts[create.host]
        assert on.connected
        assert create.pool.image in _own_images(on, create.pool)
        assert on.cool_until is None or on.cool_until <= NOW


@calm
@given(worlds())
def test_every_job_has_a_machine_coming_or_a_reason(seen: World) -> None:
    decided = plan(seen, NOW)
    made = [create.for_job for create in decided.creates if create.for_job]
    waiting = waiting_jobs(seen, decided)
    assert len(set(made + waiting)) == len(made + waiting)
    assert all(wait.code and wait.reason for wait in decided.waits)
    covered = [one for one in seen.jobs if one.id not in {*made, *waiting}]
    assert _matched(covered, [i for i in seen.instances if i.serves_demand]) == len(covered)


@calm
@given(worlds())
def test_as_many_jobs_are_covered_as_the_runners_can_serve_that_are_believed_to(seen: World) -> None:
    decided = plan(seen, NOW)
    ids = {create.for_job for create in decided.creates} | set(waiting_jobs(seen, decided))
    believed = [i for i in seen.instances if i.serves_demand and not _sits_idle(seen, i)]
    assert sum(one.id not in ids for one in seen.jobs) == _matched(seen.jobs, believed)


def _sits_idle(seen: World, one: Instance) -> bool:
    """Whether it has been idle for long beside a job that it could have taken."""
    could = [j.queued_at for j in seen.jobs if j.entity_id == one.entity_id and serve(one.labels, j.labels)]
    if not one.is_idle or one.idle_since is None or not could:
        return False
    return max(one.idle_since, min(could)) <= NOW - IDLE_TRUST


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
        entities=seen.entities[::-1],
    )
    first, other = plan(seen, NOW), plan(mixed, NOW)
    assert (first.creates, first.waits, first.holds) == (other.creates, other.waits, other.holds)
    assert first.wake_at == other.wake_at
    assert set(first.retires) == set(other.retires)


@calm
@given(worlds())
def test_of_equal_jobs_the_oldest_gets_the_machine(seen: World) -> None:
    decided = plan(seen, NOW)
    jobs = {one.id: one for one in seen.jobs}
    for waits in (jobs[job_id] for job_id in waiting_jobs(seen, decided)):
        for gets in (jobs[create.for_job] for create in decided.creates if create.for_job):
            if (gets.entity_id, gets.labels) == (waits.entity_id, waits.labels):
                assert (gets.queued_at, gets.id) < (waits.queued_at, waits.id)


@calm
@given(worlds())
def test_no_busy_runner_is_retired_and_none_before_its_time(seen: World) -> None:
    instances = {one.id: one for one in seen.instances}
    generations = {one.id: one.generation for one in seen.pools}
    retires = plan(seen, NOW).retires
    assert len({retire.instance_id for retire in retires}) == len(retires)
    for retire in retires:
        one = instances[retire.instance_id]
        assert one.status in COMING
        assert retire.reason
        if one.runner_status is RunnerStatus.IDLE:
            assert not one.job_id
            if one.pool_generation >= generations[one.pool_id]:
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
    board = Board.of(world((job(),), pools=pools, hosts=hosts))
    decided = plan_on(board, Moment(NOW))
    assert decided.creates == ()
    assert reason in why_waiting(board, decided, "job-1")
    assert why_waiting(board, decided, "job-1", brief=True) == decided.waits[0].reason


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
