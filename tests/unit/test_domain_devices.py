"""Devices as amounts: they are counted like processors, and who asks for none is not kept away by them."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.fleet import Host
from coordinator.domain.planner import plan, plan_on, why_waiting
from coordinator.domain.planning.board import Board
from coordinator.domain.resources import Resources, devices
from coordinator.domain.world import Moment
from tests.samples.domain import NOW, SMALL, calm, carried_out, host, idle, instance, job, pool, world

GPU = Resources(2, 2048, 10, (("gpu", 1),))
LIBVIRT = frozenset({"libvirt"})

counts = st.dictionaries(st.sampled_from(["gpu", "fpga", "a100"]), st.integers(-3, 5))
amounts = st.builds(Resources, *[st.integers(0, 9)] * 3, counts.map(devices))


def with_gpus(name: str, count: int, **more: object) -> Host:
    values: dict[str, object] = {"capacity": Resources(16, 32768, 500, devices({"gpu": count})), "passes": LIBVIRT}
    return host(name, **values | more)


@given(amounts, amounts)
def test_what_is_added_and_taken_again_leaves_no_trace(one: Resources, other: Resources) -> None:
    assert one + other == other + one
    assert hash(one + other) == hash(other + one)
    assert one + other - other == one


@given(amounts, amounts)
def test_what_fits_once_is_held_and_leaves_nothing_below_zero(free: Resources, need: Resources) -> None:
    need = Resources(need.vcpus, need.memory_mib, need.disk_gib, tuple((n, abs(count)) for n, count in need.devices))
    if (need.vcpus and need.memory_mib and need.disk_gib) or need == need.__class__():
        assert free.holds(need) is (free.times(need) > 0)
    if free.holds(need):
        left = dict((free - need).devices)
        assert all(left.get(name, 0) >= 0 for name, _ in need.devices)
        assert not free.short_of(need)
    else:
        assert free.short_of(need)


def test_devices_that_are_promised_too_often_keep_nobody_away_who_wants_none() -> None:
    short = Resources(4, 4096, 40, (("gpu", -1),))
    assert short.holds(SMALL)
    assert not short.holds(GPU)
    assert short.eased_by(GPU)
    assert not short.eased_by(SMALL)


@calm
@given(
    gpus=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    wanted=st.lists(st.integers(1, 2), max_size=8),
    ends=st.lists(st.integers(0, 7), max_size=6),
)
def test_never_are_more_devices_promised_than_there_are(gpus: list[int], wanted: list[int], ends: list[int]) -> None:
    hosts = tuple(with_gpus(f"h{n}", count) for n, count in enumerate(gpus))
    pools = tuple(
        pool(f"g{n}", labels=frozenset({f"gpu{n}"}), max_runners=9, resources=Resources(1, 64, 1, (("gpu", n),)))
        for n in (1, 2)
    )
    jobs = tuple(job(n, f"gpu{count}") for n, count in enumerate(wanted))
    board = Board.of(world(jobs, pools=pools, hosts=hosts))
    for end in [None, *ends]:
        if end is not None:
            board.drop_instance(f"instance-{10**6 + end}")
        carried_out(board, plan_on(board, Moment(NOW)))
        used = {one.name: Resources() for one in hosts}
        for one in board.instances.values():
            used[one.host] += one.resources
        for each in hosts:
            assert each.capacity.holds(used[each.name]), used
            assert board.free[each.name] == each.capacity - used[each.name]


def test_a_machine_with_a_device_goes_where_one_is_free() -> None:
    busy = instance(1, host="h1", resources=GPU)
    hosts = (host("h0"), with_gpus("h1", 1), with_gpus("h2", 1))
    decided = plan(world((job(1), job(2)), (busy,), (pool(resources=GPU),), hosts), NOW)
    assert [create.host for create in decided.creates] == ["h2"]  # the second job is covered by what is coming


NO_PASSING = {"passes": frozenset[str]()}
NOT_PASSED = "no host passes devices to machines of 'libvirt'"


@pytest.mark.parametrize(
    ("hosts", "reason", "of_each"),
    [
        ((host(),), NOT_PASSED, "host host-1 passes no devices to machines of 'libvirt'"),
        ((host(passes=LIBVIRT),), "no host has any gpu", "host host-1 has no devices, the pool wants 1 gpu"),
        ((with_gpus("h", 1, **NO_PASSING),), NOT_PASSED, "host h passes no devices to machines of 'libvirt'"),
        ((with_gpus("h", 1, **NO_PASSING), host(passes=LIBVIRT)), "no host has any gpu", "host h passes no devices"),
        ((with_gpus("host-1", 1),), "no host has a free gpu", "is full (1 gpu wanted, 0 free)"),
        ((with_gpus("host-1", 1, connected=False),), "no host has a free gpu", "is not connected"),
        (
            (with_gpus("host-1", 2, capacity=Resources(3, 9999, 99, (("gpu", 2),))),),
            "no host has room for it",
            "is full (2 vCPU wanted, 1 free)",
        ),
    ],
)
def test_a_job_is_told_whether_there_is_no_device_or_none_free(
    hosts: tuple[Host, ...], reason: str, of_each: str
) -> None:
    busy = instance(1, host="host-1", resources=GPU, labels=frozenset({"other"}))
    board = Board.of(world((job(1),), (busy,), (pool(resources=GPU),), hosts))
    decided = plan_on(board, Moment(NOW))
    assert reason in decided.waits[0].reason
    told = why_waiting(board, decided, "job-1")
    assert reason in told
    assert of_each in told


def test_what_one_driver_of_a_host_passes_counts_for_none_of_its_others() -> None:
    """As on a host with libvirt and LXD: its one device is a machine's of libvirt, never one of LXD's."""
    both = {"libvirt": frozenset({"debian"}), "lxd": frozenset({"debian"})}
    hosts = (with_gpus("h", 1, drivers=both),)
    by_lxd = pool(provider="lxd", resources=GPU)
    board = Board.of(world((job(1),), pools=(by_lxd,), hosts=hosts))
    decided = plan_on(board, Moment(NOW))
    assert not decided.creates
    assert "no host passes devices to machines of 'lxd'" in decided.waits[0].reason
    assert "host h passes no devices to machines of 'lxd'" in why_waiting(board, decided, "job-1")
    (create,) = plan(world((job(1),), pools=(pool(resources=GPU),), hosts=hosts), NOW).creates
    assert create.host == "h"
    (plain,) = plan(world((job(1),), pools=(pool(provider="lxd"),), hosts=hosts), NOW).creates
    assert plain.host == "h"


def test_several_devices_are_told_in_numbers() -> None:
    two = pool(resources=Resources(1, 64, 1, devices({"gpu": 2, "fpga": 1})))
    (wait,) = plan(world((job(1),), pools=(two,), hosts=(with_gpus("h", 1),)), NOW).waits
    assert "no host has 1 fpga and 2 gpu" in wait.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [(with_gpus("h", 1, cool_until=None, connected=False), "no host has a free gpu"), (None, "no host has any gpu")],
)
def test_the_reason_is_told_anew_when_a_host_gets_or_loses_its_devices(change: Host | None, reason: str) -> None:
    before = (host("h"),) if change else (with_gpus("h", 1, connected=False),)
    board = Board.of(world((job(1),), pools=(pool(resources=GPU),), hosts=before))
    assert reason not in plan_on(board, Moment(NOW)).waits[0].reason
    if change:
        board.put_host(change)
        board.put_instance(instance(1, host="h", resources=GPU, labels=frozenset({"other"})))
    else:
        board.drop_host("h")
        board.put_host(host("other", passes=LIBVIRT))
    assert reason in plan_on(board, Moment(NOW)).waits[0].reason


def test_a_host_is_kept_for_a_starving_job_until_its_device_is_free() -> None:
    """Whoever asks for a device and came later does not get it, and who asks for none has the rest."""
    names: Mapping[str, frozenset[str]] = {name: frozenset({name}) for name in ("one", "two", "plain")}
    pools = (
        pool("two", labels=names["two"], resources=Resources(1, 64, 1, (("gpu", 2),))),
        pool("one", labels=names["one"], resources=GPU),
        pool("plain", labels=names["plain"]),
    )
    busy = instance(1, resources=GPU, labels=frozenset({"other"}), pool_id="pool-one")
    jobs = (job(1, "two"), job(2, "one", queued_at=NOW), job(3, "plain", queued_at=NOW))
    decided = plan(world(jobs, (busy,), pools, (with_gpus("host-1", 2),)), NOW)
    assert [(hold.job_id, hold.host) for hold in decided.holds] == [("job-1", "host-1")]
    assert [create.pool.name for create in decided.creates] == ["plain"]
    (later,) = [wait for wait in decided.waits if "one" in wait.job_class.labels]
    assert "no host has a free gpu, but for host host-1, which is kept for job job-1" in later.reason


def test_only_idle_runners_that_have_the_device_make_way_for_who_starves_for_it() -> None:
    kept = {"idle_since": NOW.replace(hour=1), "created_at": NOW.replace(hour=1)}
    runners = (
        idle(1, pool_id="pool-plain", labels=frozenset({"plain"}), **kept),
        idle(2, pool_id="pool-one", labels=frozenset({"one"}), resources=GPU, **kept),
    )
    pools = (
        pool("plain", labels=frozenset({"plain"}), min_idle=1),
        pool("one", labels=frozenset({"one"}), min_idle=1, resources=GPU),
        pool("both", labels=frozenset({"both"}), resources=GPU),
    )
    decided = plan(world((job(1, "both"),), runners, pools, (with_gpus("host-1", 1),)), NOW)
    assert [retire.instance_id for retire in decided.retires] == ["instance-2"]
