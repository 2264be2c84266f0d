"""Which versions of agent and coordinator talk to each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler import __version__
from hostler.versions import VersionsApart, check

NUMBERS = st.integers(0, 1000)


def agree(agent: str, coordinator: str) -> bool:
    try:
        check(agent=agent, coordinator=coordinator)
    except VersionsApart:
        return False
    return True


@given(NUMBERS, NUMBERS, st.integers(-3, 3), NUMBERS)
def test_one_minor_release_in_either_direction_and_no_more(major: int, minor: int, off: int, patch: int) -> None:
    other = max(minor + off, 0)
    assert agree(f"{major}.{minor}.0", f"{major}.{other}.{patch}") is (abs(other - minor) <= 1)
    assert agree(f"{major}.{other}.{patch}", f"{major}.{minor}.0") is (abs(other - minor) <= 1)
    assert not agree(f"{major}.{minor}.0", f"{major + 1}.{minor}.0")


def test_this_version_is_one() -> None:
    assert agree(__version__, __version__)
    assert agree("1.2.0.dev3+g12", "1.1rc1")


@pytest.mark.parametrize(
    ("agent", "coordinator", "said"),
    [
        (
            "0.1.0",
            "0.3.0",
            "agent 0.1.0 and coordinator 0.3.0 are more than one minor release apart .upgrade the agent",
        ),
        ("0.3.0", "0.1.0", "upgrade the coordinator, which is the older"),
        ("1.0.0", "0.9.0", "upgrade the coordinator, which is the older"),
        ("", "0.1.0", "the agent says '' for its version"),
        ("0.1.0", "x", "the coordinator says 'x' for its version"),
        ("0.1.0", "1" * 50, "for its version, which is none"),
    ],
)
def test_a_refusal_names_which_one_to_upgrade(agent: str, coordinator: str, said: str) -> None:
    with pytest.raises(VersionsApart, match=said):
        check(agent=agent, coordinator=coordinator)
