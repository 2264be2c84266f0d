"""Images on hosts: what reports do to what is known, and which hosts the planner takes for an image."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.changes import Phase, on_image
from coordinator.domain.fleet import Host, Placement
from coordinator.domain.images import (
    Held,
    Image,
    OnHost,
    Reach,
    Report,
    held,
    may_be_wanted,
    on_presented,
    on_report,
    reach,
    wanted,
)
from coordinator.domain.instance import RunnerStatus
from coordinator.domain.planner import plan, plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.resources import Resources
from coordinator.domain.world import Moment, World
from hostler.images import FETCH_LIMIT, ImageFormat, ImageState
from tests.samples import domain as sample
from tests.samples.domain import NOW

SHA = "ab" * 32
OTHER = "cd" * 32
ENTRY = Image("debian", "amd64", "https://images.example/debian.qcow2", SHA, ImageFormat.QCOW2)
HERE = Held(contents=frozenset({SHA}))


def _reach(own: set[str], held_: Held, *, fetches: bool = True, entry: Image | None = ENTRY) -> Reach:
    return reach(frozenset(own), fetches, entry, "debian", held_, NOW)


def test_where_an_image_is_and_where_it_may_be_fetched() -> None:
    resting = Held(rests={SHA: NOW + timedelta(seconds=1)})
    rested = Held(rests={SHA: NOW})
    assert _reach(set(), HERE) is Reach.HERE
    assert _reach(set(), Held()) is Reach.FETCH
    assert _reach(set(), Held(contents=frozenset({OTHER}))) is Reach.FETCH
    assert _reach(set(), resting) is Reach.RESTS
    assert _reach(set(), rested) is Reach.FETCH
    assert _reach(set(), Held(), fetches=False) is Reach.NO_FETCHING
    assert _reach(set(), HERE, entry=None) is Reach.NO_ENTRY


def test_a_hosts_own_image_is_used_where_the_catalogue_has_none_or_cannot_be_used() -> None:
    assert _reach({"debian"}, Held(), entry=None) is Reach.HERE
    assert _reach({"debian"}, Held(), fetches=False) is Reach.HERE
    assert _reach({"debian"}, Held()) is Reach.FETCH, "one name means one content where the catalogue has it"


def _report(state: ImageState, **more: str) -> Report:
    return Report("host-1", SHA, state, **more)  # type: ignore[arg-type]


def test_failures_rest_longer_each_time_and_a_success_forgives_them() -> None:
    row = None
    now = NOW
    rests = []
    for _ in range(4):
        row = on_report(row, _report(ImageState.FAILED, error_code="image_fetch_failed", detail="404"), now, 1.0)
        assert row is not None
        assert row.cool_until is not None
        rests.append(row.cool_until - now)
        now = row.cool_until
    assert rests == sorted(set(rests)), "each longer than the one before"
    assert (row.failures, row.detail) == (4, "404")  # type: ignore[union-attr]
    fetching = on_report(row, _report(ImageState.FETCHING), now, 1.0)
    assert fetching is not None
    assert fetching.failures == 4, "not forgiven before it is here"
    here = on_report(fetching, _report(ImageState.HAVE), now, 1.0)
    assert here is not None
    assert (here.failures, here.cool_until) == (0, None)
    assert on_report(here, _report(ImageState.GONE), now, 1.0) is None


def test_what_failed_together_counts_once() -> None:
    first = on_report(None, _report(ImageState.FAILED), NOW, 1.0)
    second = on_report(first, _report(ImageState.FAILED), NOW, 1.0)
    assert second is not None
    assert second.failures == 1


def test_an_agents_hello_replaces_what_was_known_but_not_what_is_wanted_or_rests() -> None:
    late = NOW + timedelta(hours=1)
    known = {
        "have": OnHost("host-1", "have", ImageState.HAVE, NOW),
        "kept": OnHost("host-1", "kept", ImageState.HAVE, NOW),
        "wanted": OnHost("host-1", "wanted", ImageState.WANTED, NOW),
        "rests": OnHost("host-1", "rests", ImageState.FAILED, NOW, failures=9, cool_until=late + timedelta(minutes=1)),
        "rested": OnHost("host-1", "rested", ImageState.FAILED, NOW, failures=1, cool_until=NOW),
        "again": OnHost("host-1", "again", ImageState.FAILED, NOW, failures=2, cool_until=NOW, error_code="x"),
    }
    says = [
        Report("host-1", "kept", ImageState.HAVE),
        Report("host-1", "new", ImageState.HAVE),
        Report("host-1", "again", ImageState.FAILED, error_code="x"),
    ]
    became = {row.sha256: row for row in on_presented(known, says, late, 1.0)}
    assert set(became) == {"kept", "new", "wanted", "rests", "again"}
    assert became["again"].failures == 2, "the same failure is not counted again"
    assert on_presented(became, says, late, 1.0) == list(became.values()), "repeated, it changes nothing"


def test_what_is_wanted_is_not_asked_for_twice() -> None:
    failed = OnHost("host-1", SHA, ImageState.FAILED, NOW, failures=3, cool_until=NOW)
    assert may_be_wanted(None)
    assert may_be_wanted(failed)
    assert not may_be_wanted(OnHost("host-1", SHA, ImageState.HAVE, NOW))
    assert not may_be_wanted(OnHost("host-1", SHA, ImageState.FETCHING, NOW))
    assert wanted(failed, "host-1", SHA, NOW).failures == 3


def test_a_machine_has_all_its_time_once_its_image_is_there() -> None:
    machine, timeout = sample.instance(), timedelta(minutes=5)
    fetching = on_image(machine, Phase.FETCHING, NOW, timeout)
    assert fetching.bootstrap_deadline == NOW + FETCH_LIMIT + timeout
    there = on_image(fetching, Phase.IMAGE, NOW + timedelta(minutes=40), timeout)
    assert there.bootstrap_deadline == NOW + timedelta(minutes=45)
    idle = sample.idle(runner_status=RunnerStatus.IDLE)
    assert on_image(idle, Phase.FETCHING, NOW, timeout) is idle


# --- the planner ---


def _host(name: str, held_: Held, **more: Any) -> Host:
    fields = {"drivers": {"libvirt": frozenset[str]()}, "fetches": frozenset({"libvirt"}), "held": held_}
    return sample.host(name, **fields | more)


def _world(*hosts: Host, jobs: int = 1, **pool: Any) -> World:
    world = sample.world(
        jobs=tuple(sample.job(n) for n in range(1, jobs + 1)),
        pools=(sample.pool(max_runners=100, **pool),),
        hosts=hosts,
    )
    return sample.with_images(world, ENTRY)


def _why(world: World) -> str:
    board = Board.of(world)
    return why_waiting(board, plan_on(board, Moment(NOW)), "job-1")


@pytest.mark.parametrize("placement", list(Placement))
def test_hosts_that_have_the_image_go_before_those_that_fetch_it(placement: Placement) -> None:
    small = Resources(4, 32768, 500)  # room for two
    hosts = _host("a", Held()), _host("b", HERE, capacity=small), _host("c", Held()), _host("d", HERE)
    decided = plan(_world(*hosts, jobs=12, placement=placement), NOW)
    took = [create.host for create in decided.creates]
    assert len(took) == 12
    assert set(took[:10]) == {"b", "d"}
    assert set(took[10:]) <= {"a", "c"}


def test_a_host_that_could_not_fetch_rests_and_is_tried_again() -> None:
    until = NOW + timedelta(seconds=30)
    board = Board.of(_world(_host("a", Held(rests={SHA: until}))))
    decided = plan_on(board, Moment(NOW))
    assert not decided.creates
    why = "host a could not fetch the image 'debian' and does not try before 12:00:30 UTC"
    assert why in why_waiting(board, decided, "job-1")
    assert decided.wake_at == until
    assert [create.host for create in plan_on(board, Moment(until)).creates] == ["a"]


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (_host("a", Held(), fetches=frozenset()), "does not have the image 'debian', and cannot fetch it for libvirt"),
        (_host("a", Held(), arch="arm64"), "is arm64, the pool wants amd64"),
    ],
)
def test_why_a_host_makes_no_machine_of_an_image(host: Host, why: str) -> None:
    assert f"host a {why}" in _why(_world(host))


def test_an_image_that_nobody_knows_is_told() -> None:
    why = _why(_world(_host("a", Held()), image="nobodys"))
    assert "host a does not have the image 'nobodys', nor does the catalogue for amd64" in why


def test_a_catalogue_that_changes_is_looked_at_anew() -> None:
    board = Board.of(_world(_host("a", Held())))
    board.put_images([])
    assert not plan_on(board, Moment(NOW)).creates
    board.put_images([ENTRY])
    assert len(plan_on(board, Moment(NOW)).creates) == 1


states = st.sampled_from([Held(), HERE, Held(contents=frozenset({OTHER})), Held(rests={SHA: NOW + timedelta(hours=1)})])


@given(st.lists(states, min_size=1, max_size=5), st.integers(0, 12), st.sampled_from(list(Placement)), st.data())
def test_told_of_hosts_one_by_one_it_plans_as_if_told_at_once(
    now_held: list[Held], jobs: int, placement: Placement, data: st.DataObject
) -> None:
    hosts = [_host(f"host-{n}", one) for n, one in enumerate(now_held)]
    whole = _world(*hosts, jobs=jobs, placement=placement)
    board = Board.of(_world(*(_host(host.name, Held()) for host in hosts), jobs=jobs, placement=placement))
    plan_on(board, Moment(NOW))
    for host in data.draw(st.permutations(hosts)):
        board.put_host(host)
        plan_on(board, Moment(NOW))
    assert [(c.host, c.for_job) for c in plan_on(board, Moment(NOW)).creates] == [
        (c.host, c.for_job) for c in plan(whole, NOW).creates
    ]


def test_held_is_what_is_here_and_what_rests() -> None:
    rows = [OnHost("h", "a", ImageState.HAVE, NOW), OnHost("h", "b", ImageState.FAILED, NOW, cool_until=NOW)]
    assert held(rows) == Held(frozenset({"a"}), {"b": NOW})
