"""Which images go: never one in use, no more than needed, the oldest first, and within the quota where it can be."""

from hypothesis import given
from hypothesis import strategies as st

from providers.images.lru import Kept, to_drop

shelves = st.lists(
    st.builds(
        Kept,
        name=st.text("abc", min_size=1, max_size=6),
        bytes=st.integers(0, 100),
        last_used=st.integers(0, 20).map(float),
        in_use=st.booleans(),
    ),
    unique_by=lambda one: one.name,
    max_size=12,
)


@given(shelves, st.integers(0, 500), st.integers(0, 200))
def test_what_is_dropped(kept: list[Kept], quota: int, coming: int) -> None:
    dropped = set(to_drop(kept, quota, coming))
    by_name = {one.name: one for one in kept}
    assert not any(by_name[name].in_use for name in dropped)
    left = sum(one.bytes for one in kept if one.name not in dropped) + coming
    may_go = [one for one in kept if not one.in_use and one.name not in dropped]
    assert left <= quota or not may_go, "there is room to be made"
    if dropped:
        newest = max(dropped, key=lambda name: (by_name[name].last_used, name))
        assert left + by_name[newest].bytes > quota, "one less would have done"
        assert all((one.last_used, one.name) > (by_name[newest].last_used, newest) for one in may_go)


def test_within_the_quota_all_stay() -> None:
    assert to_drop([Kept("a", 5, 1.0, in_use=False), Kept("b", 5, 2.0, in_use=True)], 10) == []
    assert to_drop([Kept("a", 5, 1.0, in_use=False), Kept("b", 5, 2.0, in_use=True)], 10, 1) == ["a"]
