"""Labels of jobs and runners, and when one serves the other."""

from collections.abc import Iterable

Labels = frozenset[str]


def labels(names: Iterable[str]) -> Labels:
    """Forges compare labels without regard to case."""
    return frozenset(name.casefold() for name in names)


def serve(runner: Labels, job: Labels) -> bool:
    """A runner takes any job whose labels are all among its own (GitHub: choosing the runner for a job)."""
    return job <= runner
