"""How long the parts of a job's way took, out of its timeline. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

from coordinator.domain.changes import Step
from coordinator.domain.timeline import Entry


class Part(StrEnum):
    """A part of a job's way, named for dashboards."""

    WEBHOOK_TO_COMMIT = "webhook_to_commit"
    COMMIT_TO_DISPATCH = "commit_to_dispatch"
    DISPATCH_TO_START = "dispatch_to_start"
    START_TO_ONLINE = "start_to_online"
    ONLINE_TO_JOB = "online_to_job"


_BETWEEN: Final[Mapping[Part, tuple[Step, Step]]] = {
    Part.WEBHOOK_TO_COMMIT: (Step.WEBHOOK, Step.COMMITTED),
    Part.COMMIT_TO_DISPATCH: (Step.COMMITTED, Step.DISPATCHED),
    Part.DISPATCH_TO_START: (Step.DISPATCHED, Step.STARTED),
    Part.START_TO_ONLINE: (Step.STARTED, Step.RUNNER_ONLINE),
    Part.ONLINE_TO_JOB: (Step.RUNNER_ONLINE, Step.RUNNING),
}


def parts(entries: Iterable[Entry]) -> dict[Part, float]:
    """Seconds of each part whose ends are known.

    A machine that was made before the job came has no part that led from the job to it: it is left out, as is what
    clocks that differ make negative.
    """
    first = _first(entries)
    found = {part: _between(first, *ends) for part, ends in _BETWEEN.items()}
    return {part: seconds for part, seconds in found.items() if seconds is not None and seconds >= 0}


def waited(entries: Iterable[Entry]) -> float | None:
    """Seconds from the first word of a job until it ran."""
    seconds = _between(_first(entries), Step.WEBHOOK, Step.RUNNING)
    return None if seconds is None else max(seconds, 0.0)


def ran(entries: Iterable[Entry]) -> float | None:
    """Seconds from when it ran until it was completed; None of one that never ran, or whose begin nobody told of."""
    seconds = _between(_first(entries), Step.RUNNING, Step.COMPLETED)
    return None if seconds is None else max(seconds, 0.0)


def _first(entries: Iterable[Entry]) -> dict[Step, datetime]:
    found: dict[Step, datetime] = {}
    for entry in entries:
        if entry.step not in found or entry.at < found[entry.step]:
            found[entry.step] = entry.at
    return found


def _between(first: Mapping[Step, datetime], begin: Step, end: Step) -> float | None:
    if begin not in first or end not in first:
        return None
    return (first[end] - first[begin]).total_seconds()
