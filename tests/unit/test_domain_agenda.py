"""A refusal stands until something changes that it was given for; then it is thought of again."""

from collections.abc import Callable
from datetime import timedelta
from unittest import mock

import msgspec
import pytest

from coordinator.domain.fleet import Entity, EntityKind, Flavor, Pool
from coordinator.domain.instance import RunnerStatus, Status
from coordinator.domain.planner import plan_on, why_waiting
from coordinator.domain.planning import reasons
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.draft import Draft
from coordinator.domain.resources import Resources
from coordinator.domain.world import Moment, World
from tests.samples.domain import NOW, SMALL, host, instance, job, pool, world

mine, theirs = pool("mine"), pool("theirs", entity_id="entity-2")
FULL = host(capacity=SMALL)
FRESH = NOW - timedelta(minutes=1)
busy = instance(
    1, pool_id=theirs.id, entity_id="entity-2", status=Status.RUNNING, runner_status=RunnerStatus.ACTIVE, job_id="x"
)
making = instance(1, pool_id="pool-theirs", entity_id="entity-2", provider="cloud", host="", job_id="x")


def seen(*pools: Pool, **more: object) -> World:
    """My job waits, for what a stranger's machine has."""
    return msgspec.structs.replace(
        world((job(1, queued_at=FRESH),), (busy,), pools or (mine, theirs), (FULL,), {"cloud": 1}), **more
    )


def placed(board: Board) -> list[str]:
    return [create.for_job for create in plan_on(board, Moment(NOW)).creates]


by_name = Flavor("of the cloud")
in_clouds = tuple(msgspec.structs.replace(one, provider="cloud", flavor=by_name) for one in (mine, theirs))
lonely = msgspec.structs.replace(theirs, share_hosts=False)
wide = host(capacity=Resources(8, 65536, 1000))


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (seen(), lambda board: board.drop_instance(busy.id)),
        (seen(), lambda board: board.put_host(wide)),
        (seen(), lambda board: board.put_host(host("new"))),
        (seen(hosts=(host(connected=False),)), lambda board: board.put_host(host())),
        (seen(*in_clouds, instances=(making,)), lambda board: board.drop_instance(making.id)),
        (
            seen(*in_clouds, instances=(making,)),
            lambda board: board.put_instance(msgspec.structs.replace(making, status=Status.RUNNING)),
        ),
        (seen(mine, lonely, hosts=(wide,)), lambda board: board.put_pool(theirs)),
        (seen(msgspec.structs.replace(mine, enabled=False), theirs, hosts=(wide,)), lambda board: board.put_pool(mine)),
        (
            seen(hosts=(wide,), entities=(Entity("entity-1", "", EntityKind.REPOSITORY, "", "", "", quota=0),)),
            lambda board: board.put_entity(Entity("entity-1", "", EntityKind.REPOSITORY, "", "", "")),
        ),
    ],
    ids=["a machine ends", "a host grows", "a host comes", "a host is back", "a cloud's machine ends", "it is made",
         "strangers are welcome", "a pool is enabled", "a quota ends"],
)  # fmt: skip
def test_a_job_is_placed_when_what_it_waited_for_is_there(before: World, change: Callable[[Board], None]) -> None:
    board = Board.of(before)
    assert placed(board) == []
    assert placed(board) == []
    change(board)
    assert placed(board) == ["job-1"]


def test_a_plan_that_is_not_carried_out_leaves_its_room_to_the_next() -> None:
    """The job that went before is cancelled before its machine's row is written."""
    board = Board.of(seen(instances=(), jobs=(job(1, queued_at=FRESH), job(0, entity_id="entity-2", queued_at=FRESH))))
    assert placed(board) == ["job-0"]
    board.drop_job("job-0")
    assert placed(board) == ["job-1"]


def many(entities: int = 20) -> World:
    """As many repositories, each with a job that waits; the only host is full."""
    pools = tuple(pool(f"p{n:02}", entity_id=f"entity-{n}") for n in range(entities))
    jobs = tuple(job(n, entity_id=f"entity-{n}", queued_at=FRESH) for n in range(entities))
    return world(jobs, (busy,), (*pools, theirs), (FULL,))


def test_one_more_job_has_nobody_thought_of_but_its_repository() -> None:
    board = Board.of(many())
    plan_on(board, Moment(NOW))
    board.put_job(job(99, entity_id="entity-7", queued_at=NOW))
    with mock.patch.object(Draft, "_place", autospec=True, side_effect=Draft._place) as place:
        decided = plan_on(board, Moment(NOW))
    assert [call.args[1].entity_id for call in place.call_args_list] == ["entity-7"]
    assert sum(wait.count for wait in decided.waits) == 21
    assert all(why_waiting(board, decided, wait.job_id) for wait in decided.waits)


def test_the_reasons_of_hosts_are_found_when_somebody_asks_and_not_for_a_list() -> None:
    board = Board.of(many())
    with mock.patch.object(reasons, "no_host", return_value="told") as told:
        decided = plan_on(board, Moment(NOW))
        assert why_waiting(board, decided, "job-3", brief=True) == "pool p03: no host has room for it"
        assert not told.called
        assert why_waiting(board, decided, "job-3") == "pool p03: told"


def test_a_plan_may_be_in_parts_which_together_are_the_whole() -> None:
    jobs = tuple(job(n, entity_id=f"entity-{n % 2}", queued_at=FRESH) for n in range(7))
    pools = tuple(pool(f"p{n}", entity_id=f"entity-{n}", min_idle=1) for n in range(2))
    board = Board.of(world(jobs, (), pools, (host(capacity=Resources(100, 100_000, 1000)),)))
    whole = plan_on(board, Moment(NOW))
    made: list[str] = []
    for number in range(10):
        part = plan_on(board, Moment(NOW), most=3)
        if not part.creates:
            break
        assert (part.wake_at == NOW) is (len(part.creates) == 3 and len(made) < 6)
        for count, create in enumerate(part.creates):
            made.append(create.for_job)
            more = {"pool_id": create.pool.id, "entity_id": create.pool.entity_id, "for_job": create.for_job}
            board.put_instance(instance(100 * number + count, **more))
    assert made == [create.for_job for create in whole.creates]
