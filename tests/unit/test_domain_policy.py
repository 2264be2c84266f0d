"""The planner's policy: who goes first, what limits hold, which runners are kept; and that a board keeps in step."""

from collections import Counter
from datetime import timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.fleet import Balancer, Entity, EntityKind, Placement
from coordinator.domain.instance import RunnerStatus, Status
from coordinator.domain.labels import labels
from coordinator.domain.planner import plan, plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.resources import Resources
from coordinator.domain.world import Budget, Moment, Policy, World
from tests.samples.domain import NOW, SMALL, calm, carried_out, host, idle, instance, job, pool, world
from tests.unit.test_domain_planner import worlds

LATER = (timedelta(), timedelta(seconds=31), timedelta(minutes=31))  # rests are over; what is young starves
PATIENT = Policy(creates_per_host=1000, starvation_bound=timedelta(days=1))
BIG = host(capacity=Resources(1000, 10_000_000, 100_000))


def entity(name: str = "entity-1", **more: object) -> Entity:
    return msgspec.structs.replace(Entity(name, "endpoint-1", EntityKind.REPOSITORY, "o", name, "token"), **more)


def told(seen: World, *entities: Entity, policy: Policy | None = None) -> World:
    return msgspec.structs.replace(seen, entities=entities, policy=policy or PATIENT)


def two(weight: float = 1.0, jobs: int = 30, room: int = 12) -> World:
    """Two repositories with the same many jobs each, the second's all younger, and room for some of them."""
    mine = tuple(job(n) for n in range(jobs))
    theirs = tuple(job(100 + n, entity_id="entity-2") for n in range(jobs))
    pools = (pool(max_runners=100), pool("other", entity_id="entity-2", max_runners=100))
    narrow = host(capacity=Resources(room * SMALL.vcpus, 10_000_000, 100_000))
    return told(world(mine + theirs, pools=pools, hosts=(narrow,)), entity(), entity("entity-2", weight=weight))


def reason(seen: World) -> str:
    """Why the first of those wait that get no machine, when the others have theirs."""
    board = Board.of(seen)
    decided = plan_on(board, Moment(NOW))
    return why_waiting(carried_out(board, decided), decided, decided.waits[0].job_id)


def of_entities(seen: World) -> Counter[str]:
    return Counter(create.pool.entity_id for create in plan(seen, NOW).creates)


def test_two_repositories_share_the_fleet_evenly_whoever_came_first() -> None:
    assert of_entities(two()) == {"entity-1": 6, "entity-2": 6}


def test_a_repository_of_twice_the_weight_gets_twice_as_much() -> None:
    assert of_entities(two(weight=2.0)) == {"entity-1": 4, "entity-2": 8}


def test_what_a_repository_has_already_counts_to_its_share() -> None:
    running = tuple(
        instance(n, runner_status=RunnerStatus.ACTIVE, status=Status.RUNNING, job_id="x", host="elsewhere")
        for n in range(4)
    )
    assert of_entities(msgspec.structs.replace(two(), instances=running)) == {"entity-1": 4, "entity-2": 8}


def test_higher_priority_goes_first_whatever_its_share_and_age() -> None:
    seen = two()
    urgent = told(seen, entity(), entity("entity-2", priority=1))
    assert of_entities(urgent) == {"entity-2": 12}


def test_a_label_may_raise_a_job_above_others_of_its_repository() -> None:
    jobs = (*(job(n) for n in range(5)), job(9, "linux", "release"))
    narrow = host(capacity=SMALL)
    wide = pool(labels=labels(["linux", "release"]))
    seen = told(world(jobs, pools=(wide,), hosts=(narrow,)), entity(label_priorities={"release": 5}))
    assert [create.for_job for create in plan(seen, NOW).creates] == ["job-9"]


def test_a_changed_priority_counts_for_the_jobs_that_wait_already() -> None:
    jobs = (job(1), job(2, "linux", "release"), job(3, "linux", "release"))
    wide = pool(labels=labels(["linux", "release"]))
    seen = told(world(jobs, pools=(wide,), hosts=(host(capacity=SMALL),)), entity())
    board = Board.of(seen)
    assert [create.for_job for create in plan_on(board, Moment(NOW)).creates] == ["job-1"]
    board.put_entity(entity(label_priorities={"release": 5}))
    assert [create.for_job for create in plan_on(board, Moment(NOW)).creates] == ["job-2"]
    board.drop_job("job-2")
    assert [create.for_job for create in plan_on(board, Moment(NOW)).creates] == ["job-3"]
    board.put_entity(entity())
    assert [create.for_job for create in plan_on(board, Moment(NOW)).creates] == ["job-1"]


def test_who_has_waited_beyond_the_bound_goes_before_every_priority() -> None:
    old = job(1, queued_at=NOW - timedelta(minutes=31))
    urgent = tuple(job(100 + n, entity_id="entity-2", queued_at=NOW - timedelta(minutes=29)) for n in range(5))
    pools = (pool(), pool("other", entity_id="entity-2"))
    seen = told(
        world((old, *urgent), pools=pools, hosts=(host(capacity=SMALL),)),
        entity(),
        entity("entity-2", priority=9),
        policy=Policy(starvation_bound=timedelta(minutes=30)),
    )
    assert [create.for_job for create in plan(seen, NOW).creates] == ["job-1"]


def test_a_quota_holds_and_says_so() -> None:
    seen = told(world(tuple(job(n) for n in range(5)), pools=(pool(),), hosts=(BIG,)), entity(quota=2))
    decided = plan(seen, NOW)
    assert len(decided.creates) == 2
    assert "quota of 2 machines" in decided.waits[0].reason
    assert decided.waits[0].count == 3


def test_no_more_runners_are_planned_than_the_forge_lets_be_registered_and_the_plan_looks_again_then() -> None:
    seen = told(world(tuple(job(n) for n in range(5)), pools=(pool(),), hosts=(BIG,)), entity())
    refill = NOW + timedelta(seconds=20)
    decided = plan_on(Board.of(seen), Moment(NOW, {"token": Budget(3, refill)}))
    assert len(decided.creates) == 3
    assert "rate limit" in decided.waits[0].reason
    assert decided.wake_at == refill


def test_a_host_makes_only_so_many_at_once() -> None:
    seen = told(
        world(tuple(job(n) for n in range(5)), pools=(pool(),), hosts=(BIG,)), policy=Policy(creates_per_host=2)
    )
    decided = plan(seen, NOW)
    assert len(decided.creates) == 2
    assert "is making 2 machines" in reason(seen)


def test_a_cloud_makes_only_so_many_at_once() -> None:
    jobs = tuple(job(n) for n in range(5))
    seen = world(jobs, pools=(pool(provider="cloud", resources=Resources()),), clouds={"cloud": 3})
    assert len(plan(seen, NOW).creates) == 3


def test_roundrobin_uses_the_pools_in_turn_and_goes_on_where_it_was() -> None:
    pools = (pool("a"), pool("b"), pool("c"))
    seen = told(world(tuple(job(n) for n in range(4)), pools=pools, hosts=(BIG,)), entity())
    assert [create.pool.name for create in plan(seen, NOW).creates] == ["a", "b", "c", "a"]
    before = (instance(1, pool_id="pool-b", job_id="x", runner_status=RunnerStatus.ACTIVE),)
    later = msgspec.structs.replace(seen, instances=before)
    assert plan(later, NOW).creates[0].pool.name == "c"


def test_pack_fills_the_first_pool_first() -> None:
    pools = (pool("a", max_runners=3), pool("b"))
    seen = told(world(tuple(job(n) for n in range(4)), pools=pools, hosts=(BIG,)), entity(balancer=Balancer.PACK))
    assert [create.pool.name for create in plan(seen, NOW).creates] == ["a", "a", "a", "b"]


def test_machines_are_spread_over_hosts_or_packed_as_the_pool_says() -> None:
    hosts = (host("a", capacity=Resources(8, 65536, 1000)), host("b", capacity=Resources(4, 65536, 1000)))
    jobs = tuple(job(n) for n in range(4))
    spread = plan(told(world(jobs, pools=(pool(),), hosts=hosts)), NOW)
    packed = plan(told(world(jobs, pools=(pool(placement=Placement.PACK),), hosts=hosts)), NOW)
    assert [create.host for create in spread.creates] == ["a", "a", "a", "b"]
    assert [create.host for create in packed.creates] == ["b", "b", "a", "a"]


def test_a_pool_that_does_not_share_hosts_goes_where_no_stranger_is() -> None:
    stranger = instance(1, entity_id="entity-2", host="a", job_id="x", runner_status=RunnerStatus.ACTIVE)
    hosts = (host("a"), host("b", capacity=SMALL))
    jobs = (job(1), job(2))
    shy = told(world(jobs, (stranger,), (pool(share_hosts=False),), hosts))
    decided = plan(shy, NOW)
    assert [create.host for create in decided.creates] == ["b"]
    assert "host a has machines of another repository" in reason(shy)


def test_nobody_is_put_beside_the_machines_of_a_pool_that_does_not_share_hosts() -> None:
    shy, other = pool("shy", share_hosts=False), pool("other", entity_id="entity-2")
    alone = instance(1, pool_id=shy.id, host="a", job_id="x", runner_status=RunnerStatus.ACTIVE)
    jobs = (job(1, entity_id="entity-2"), job(2, entity_id="entity-2"))
    seen = told(world(jobs, (alone,), (shy, other), (host("a"), host("b", capacity=SMALL))))
    decided = plan(seen, NOW)
    assert [create.host for create in decided.creates] == ["b"]
    assert "does not share hosts" in reason(seen)


def test_two_of_one_plan_do_not_share_a_host_when_one_of_them_minds() -> None:
    shy, other = pool("shy", share_hosts=False), pool("other", entity_id="entity-2")
    jobs = (job(1), job(2, entity_id="entity-2"))
    decided = plan(told(world(jobs, pools=(shy, other), hosts=(host("a"),))), NOW)
    assert len(decided.creates) == 1


def test_idle_runners_are_kept_beyond_what_the_jobs_need() -> None:
    seen = told(world((job(1),), pools=(pool(min_idle=2),), hosts=(BIG,)))
    decided = plan(seen, NOW)
    assert [create.for_job for create in decided.creates] == ["job-1", "", ""]


def test_runners_that_are_coming_count_to_those_that_are_kept_and_needed_ones_do_not() -> None:
    seen = told(world((job(1),), (instance(1), idle(2)), (pool(min_idle=2),), (BIG,)))
    assert [create.for_job for create in plan(seen, NOW).creates] == [""]


def test_kept_idle_runners_are_not_surplus_and_the_rest_is() -> None:
    late = NOW + timedelta(hours=1)
    seen = told(world((), (idle(1), idle(2), idle(3)), (pool(min_idle=1),), (BIG,)))
    assert len(plan(seen, late).retires) == 2


def test_only_jobs_that_the_very_runners_could_serve_keep_them() -> None:
    late = NOW + timedelta(hours=1)
    of_others = tuple(job(n, "linux", "gpu") for n in range(5))
    seen = told(world(of_others, (idle(1),), (pool(),), (BIG,)))
    assert [retire.instance_id for retire in plan(seen, late).retires] == ["instance-1"]


def test_idle_runners_of_an_older_making_are_replaced_and_busy_ones_are_not() -> None:
    busy = instance(2, status=Status.RUNNING, runner_status=RunnerStatus.ACTIVE, job_id="x")
    seen = told(world((), (idle(1), busy), (pool(generation=1, min_idle=1),), (BIG,)))
    assert [retire.instance_id for retire in plan(seen, NOW).retires] == ["instance-1"]


def test_a_job_whose_machines_failed_too_often_rests_and_says_why() -> None:
    retry = NOW + timedelta(minutes=10)
    tired = job(1, tries=5, retry_at=retry, fault="no boot device")
    board = Board.of(told(world((tired, job(2)), pools=(pool(),), hosts=(BIG,))))
    decided = plan_on(board, Moment(NOW))
    assert [create.for_job for create in decided.creates] == ["job-2"]
    assert "no boot device" in why_waiting(board, decided, "job-1")
    again = plan_on(board, Moment(retry))
    assert "job-1" in [create.for_job for create in again.creates]


def test_a_runner_that_sits_idle_beside_a_waiting_job_is_not_believed_for_ever() -> None:
    trust = Policy().idle_trust
    seen = told(world((job(1, queued_at=NOW),), (idle(1),), (pool(),), (BIG,)))
    board = Board.of(seen)
    first = plan_on(board, Moment(NOW))
    assert first.creates == ()
    assert first.wake_at is not None
    assert first.wake_at <= NOW + trust
    later = plan_on(board, Moment(NOW + trust))
    assert [create.for_job for create in later.creates] == ["job-1"]
    assert [retire.instance_id for retire in later.retires] == ["instance-1"]


def test_a_runner_that_was_idle_for_long_before_the_job_came_is_believed() -> None:
    long_idle = idle(1, idle_since=NOW - timedelta(hours=3))
    seen = told(world((job(1, queued_at=NOW),), (long_idle,), (pool(min_idle=1),), (BIG,)))
    assert [create.for_job for create in plan(seen, NOW + timedelta(seconds=5)).creates] == [""]


@calm
@given(worlds(), worlds(), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from(LATER))
def test_a_board_told_of_changes_plans_as_one_made_of_the_end(
    before: World, after: World, chance: object, looks: float, later: timedelta
) -> None:
    """However often it plans in between: what it remembers of refusals is given up when it may be wrong."""
    after = msgspec.structs.replace(after, clouds=before.clouds, policy=before.policy)
    board = Board.of(before)
    plan_on(board, Moment(NOW))
    for pool_ in before.pools:
        if all(one.id != pool_.id for one in after.pools):
            board.put_pool(msgspec.structs.replace(pool_, enabled=False))
    for gone in {one.id for one in before.instances} - {one.id for one in after.instances}:
        board.drop_instance(gone)
    for ended in {one.id for one in before.jobs} - {one.id for one in after.jobs}:
        board.drop_job(ended)
    facts = [
        *((board.put_entity, one) for one in after.entities),
        *((board.put_pool, one) for one in after.pools),
        *((board.put_host, one) for one in after.hosts),
        *((board.put_instance, one) for one in after.instances),
        *((board.put_job, one) for one in after.jobs),
    ]
    chance.shuffle(facts)  # type: ignore[attr-defined]
    for put, fact in facts:
        put(fact)  # type: ignore[operator]
        no_strays = all(one.pool_id in board.pools for one in board.instances.values())  # the database sees to it
        if no_strays and chance.random() < looks:  # type: ignore[attr-defined]
            plan_on(board, Moment(NOW))
    scratch = Board.of(
        msgspec.structs.replace(
            after,
            pools=tuple(board.pools.values()),
            hosts=tuple(board.hosts.values()),
            entities=tuple(board.entities.values()),
        )
    )
    plan_on(board, Moment(NOW))
    kept, made = plan_on(board, Moment(NOW + later)), plan_on(scratch, Moment(NOW + later))
    assert (kept.creates, kept.waits, kept.holds) == (made.creates, made.waits, made.holds)
    assert [why_waiting(board, kept, w.job_id) for w in kept.waits] == [
        why_waiting(scratch, made, w.job_id) for w in made.waits
    ]
    assert set(kept.retires) == set(made.retires)


@calm
@given(worlds())
def test_planning_leaves_the_board_as_it_was(seen: World) -> None:
    board = Board.of(seen)
    assert plan_on(board, Moment(NOW)) == plan_on(board, Moment(NOW))


def test_a_runner_is_not_replaced_for_a_generation_that_its_pool_has_no_more() -> None:
    """As after a backup is restored."""
    board = Board.of(told(world((), (idle(1),), (pool(generation=1, min_idle=1),), (BIG,))))
    board.put_pool(pool(generation=0, min_idle=1))
    assert plan_on(board, Moment(NOW)).retires == ()
