"""Why a job waits, asked of the planner's own board: each thing in its way, and what would take it out."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given

from coordinator.domain.circuit import Circuit
from coordinator.domain.fleet import Admission, Entity, EntityKind
from coordinator.domain.labels import labels
from coordinator.domain.planner import plan_on
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.explain import Explanation, explain
from coordinator.domain.resources import Resources
from coordinator.domain.world import Budget, Moment, World
from tests.samples.domain import NOW, REPOSITORY, calm, carried_out, host, idle, instance, job, pool, world
from tests.unit.test_domain_planner import worlds

LATER = NOW + timedelta(minutes=1)


def asked(seen: World, job_id: str = "job-1", **moment: Any) -> Explanation:
    """After the plan of this moment has been carried out."""
    board, now = Board.of(seen), Moment(NOW, **moment)
    decided = plan_on(board, now)
    carried_out(board, decided)
    return explain(board, plan_on(board, now), now, job_id)


def limited(quota: int | None = None) -> Entity:
    return Entity(REPOSITORY, "endpoint-1", EntityKind.REPOSITORY, "octo", "widgets", "token", quota=quota)


FULL = host(capacity=Resources(1, 32768, 500))
OTHERS_FULL = (FULL, host("host-2", capacity=Resources(1, 512, 500)), host("host-3", admission=Admission.CORDONED))


@pytest.mark.parametrize(
    ("seen", "moment", "code", "remedy"),
    [
        (world((job(),), pools=(pool(enabled=False),)), {}, "pool_disabled", "enabling pool small"),
        (world((job(),), pools=(pool(max_runners=0),)), {}, "pool_full", "a higher max_runners"),
        (
            world((job(),), pools=(pool(cool_until=LATER, failures=4, fault="HTTP 401"),)),
            {},
            "pool_rests",
            "12:01:00 UTC, when pool small is tried again; sooner, if what failed is mended (HTTP 401)",
        ),
        (
            msgspec.structs.replace(world((job(),)), entities=(limited(quota=0),)),
            {},
            "quota_used_up",
            "a higher quota",
        ),
        (
            msgspec.structs.replace(world((job(),)), entities=(limited(),)),
            {"budgets": {"token": Budget(0, LATER)}},
            "rate_limit",
            "12:01:00 UTC, when the forge lets more runners be registered",
        ),
        (world((job(),), pools=(pool(provider="lxd"),)), {}, "no_provider", "an agent with the provider 'lxd'"),
        (
            world((job(),), pools=(pool(provider="cloud"),), clouds={"cloud": 0}),
            {},
            "provider_busy",
            "the end of one of the creates",
        ),
        (
            world((job(),), pools=(pool(provider="cloud"),), clouds={"cloud": 5}),
            {"circuits": {"cloud": Circuit(9, LATER, "exit 1")}},
            "provider_rests",
            "hostler provider check cloud",
        ),
        (world((job(),), hosts=OTHERS_FULL), {}, "no_host", "as on host-1, where there is too little: 2 vCPU wanted"),
        (world((job(),), hosts=(host(connected=False),)), {}, "no_host", "see what each has against it"),
    ],
)
def test_what_is_in_the_way_is_named_and_so_is_what_would_help(
    seen: World, moment: dict[str, Any], code: str, remedy: str
) -> None:
    found = asked(seen, **moment)
    assert [one.code for one in found.pools] == [code]
    assert found.pools[0].reason in found.summary
    assert found.in_line is not None
    assert len(found.remedies) == 1
    assert remedy in found.remedies[0]


def test_labels_that_no_pool_has_are_told_of_the_nearest_first() -> None:
    pools = (pool("far", labels=labels(["windows"])), pool("near", labels=labels(["linux", "x64"])))
    found = asked(world((job(1, "linux", "gpu"),), pools=pools))
    assert [(one.pool, one.missing) for one in found.pools] == [("near", ("gpu",)), ("far", ("gpu", "linux"))]
    assert found.remedies == (
        "give pool near the labels gpu, if its machines are what they say",
        "declare a pool with the labels gpu, linux, or correct runs-on in the workflow",
    )


def test_each_host_says_what_it_has_against_it() -> None:
    found = asked(world((job(),), hosts=OTHERS_FULL))
    told = {one.host: one.reason for one in found.pools[0].hosts}
    assert "2 vCPU wanted, 1 free" in told["host-1"]
    assert "2048 MiB memory wanted, 512 free" in told["host-2"]
    assert told["host-3"] == "is cordoned"


def test_a_job_is_told_its_place_among_its_likes_and_all_others() -> None:
    stuck = (pool(max_runners=0), pool("other", entity_id="entity-2", max_runners=0))
    urgent = msgspec.structs.replace(limited(), label_priorities={"urgent": 5})
    jobs = [job(n) for n in (1, 2, 3)] + [job(4, "urgent"), job(5, entity_id="entity-2")]
    found = asked(msgspec.structs.replace(world(tuple(jobs), pools=stuck), entities=(urgent,)), "job-3")
    assert found.in_line is not None
    assert (found.in_line.before_alike, found.in_line.before_of_entity, found.in_line.waiting) == (2, 3, 5)
    assert found.in_line.starves  # it was queued an hour ago


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (world((job(),), (instance(for_job="job-1"),)), "a machine is coming that was made for it"),
        (world((job(),), (idle(for_job=""),)), "a runner that is coming, or is idle, is there for it"),
        (world((job(tries=9, retry_at=LATER, fault="no disk"),)), "9 machines made for it came to nothing"),
        (world(()), "it does not wait for a machine"),
    ],
)
def test_a_job_that_nothing_is_in_the_way_of_says_so(seen: World, said: str) -> None:
    found = asked(seen)
    assert said in found.summary
    assert (found.pools, found.remedies, found.in_line) == ((), (), None)


@calm
@given(worlds())
def test_it_says_what_the_planner_says_and_changes_nothing(seen: World) -> None:
    board, now = Board.of(seen), Moment(NOW)
    for _ in range(40):  # until nothing more can be placed
        decided = plan_on(board, now)
        if not decided.creates:
            break
        carried_out(board, decided)
    told = {one.id: explain(board, decided, now, one.id) for one in seen.jobs}
    assert plan_on(board, now) == decided
    for wait in decided.waits:
        found = told[wait.job_id]
        assert found.summary == wait.reason
        assert found.remedies
        if not decided.holds:  # what is kept for others is known to the plan alone
            said = {one.pool_id: one.reason for one in found.pools if not one.missing}
            assert said == {one.pool_id: one.reason for one in wait.refusals}
