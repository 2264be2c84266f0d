"""When a host takes no more machines, and that it does not waver at the limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.host import Usage
from agent.pressure import Gauge, Low, Pressure, pressure

LOW = Low(memory_mib=512, disk_gib=8)


def usage(*, memory: int = 4096, disk: int = 100) -> Usage:
    return Usage(load=0.0, memory_available_mib=memory, disk_available_gib=disk)


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (usage(), None),
        (usage(disk=8), None),
        (usage(disk=7), "disk_low"),
        (usage(memory=512), None),
        (usage(memory=511), "memory_low"),
        (usage(disk=7, memory=1), "disk_low"),
    ],
)
def test_too_little_of_anything_is_pressure(now: Usage, code: str | None) -> None:
    found = pressure(now, LOW, None)
    assert (found.code if found else None) == code


def test_it_says_what_there_is_and_what_is_wanted() -> None:
    found = pressure(usage(disk=7), LOW, None)
    assert found is not None
    assert found.detail == "7 GiB of disk available, 8 wanted"


def test_a_limit_of_nothing_is_none() -> None:
    assert pressure(usage(memory=0, disk=0), Low(memory_mib=0, disk_gib=0), None) is None


def test_a_host_at_the_limit_does_not_waver() -> None:
    gauge = Gauge(LOW)
    changes = [gauge.read(usage(disk=disk)) for disk in (9, 7, 8, 9, 8, 7, 10, 9, 8)]
    assert changes == [False, True, False, False, False, False, True, False, False]
    assert gauge.refusal() is None


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 30)), min_size=1))
def test_whoever_is_short_of_something_refuses_and_says_it_until_there_is_more_than_enough(
    readings: list[tuple[int, int]],
) -> None:
    gauge = Gauge(LOW)
    before: Pressure | None = None
    for memory, disk in readings:
        changed = gauge.read(usage(memory=memory, disk=disk))
        now = gauge.pressure
        assert changed is ((before and before.code) != (now and now.code))
        assert (gauge.refusal() is None) is (now is None)
        if memory < LOW.memory_mib or disk < LOW.disk_gib:
            assert now is not None
        if memory >= LOW.memory_mib * 5 // 4 and disk >= LOW.disk_gib * 5 // 4:
            assert now is None
        before = now


def test_another_shortage_is_told_as_well() -> None:
    gauge = Gauge(LOW)
    readings = (usage(memory=1), usage(memory=1, disk=1), usage(disk=1), usage())
    codes = []
    for one in readings:
        assert gauge.read(one) or one is readings[2]
        codes.append(gauge.pressure.code if gauge.pressure else None)
    assert codes == ["memory_low", "disk_low", "disk_low", None]
