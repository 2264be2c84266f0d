"""Which versions of agent and coordinator work together: the same minor release, and the ones beside it. Pure.

The wire contract only ever grows: what a side does not know it passes over, and what it misses has a meaning. That is
kept up, and tested, for one minor release in either direction, so that hosts can be upgraded one by one.
"""

import re
from typing import Final

from hostler.errors import HostlerError

_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(\D.*)?")


class VersionsApart(HostlerError):
    """Agent and coordinator are not made for each other."""

    code = "versions_apart"


def check(*, agent: str, coordinator: str) -> None:
    """
    Raises:
        VersionsApart: they are more than one minor release apart, or one does not say what it is.
    """
    ours, theirs = _read(agent), _read(coordinator)
    if ours is None or theirs is None:
        which, said = ("agent", agent) if ours is None else ("coordinator", coordinator)
        raise VersionsApart(
            f"the {which} says '{said[:40]}' for its version, which is none", hint=f"upgrade the {which}"
        )
    if ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= 1:
        return
    older = "agent" if ours < theirs else "coordinator"
    raise VersionsApart(
        f"agent {agent} and coordinator {coordinator} are more than one minor release apart",
        hint=f"upgrade the {older}, which is the older; one minor release after the other keeps both at work meanwhile",
    )


def _read(version: str) -> tuple[int, int] | None:
    found = _VERSION.fullmatch(version)
    return (int(found[1]), int(found[2])) if found else None
