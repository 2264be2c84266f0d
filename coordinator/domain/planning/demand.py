"""How much of the demand idle and coming runners cover already."""

from collections.abc import Mapping
from datetime import datetime
from heapq import heapify, heappop, heapreplace

from coordinator.domain.labels import Labels
from coordinator.domain.planning.waiting import JobClass, Place


class Cover(dict[JobClass, int]):
    """Per class, how many of its oldest jobs have a runner coming; `used`: per runners' labels, how many are needed."""

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[Labels, int] = {}
        self.until: datetime | None = None  # when time alone may change it


def cover(waiting: Mapping[JobClass, list[Place]], serving: Mapping[Labels, int]) -> Cover:
    """Set each runner against the oldest job that it serves and no other covers.

    A runner is never promised to a job, since any with a superset of the labels may take any job: what counts is how
    many of each kind there are. The most special runners (fewest labels) are set first, so that those which can serve
    more are left for the jobs that only they serve.

    Args:
        waiting: the classes of one entity.
        serving: labels of its idle and coming runners, and how many there are.
    """
    covered = Cover()
    for labels in sorted(serving, key=lambda one: (len(one), sorted(one))):
        heads = [
            (queue[covered.get(job_class, 0)], job_class)
            for job_class, queue in waiting.items()
            if job_class.labels <= labels and covered.get(job_class, 0) < len(queue)
        ]
        heads.sort(key=lambda head: head[0])
        covered.used[labels] = _take(heads, serving[labels], covered, waiting)
    return covered


def _take(
    heads: list[tuple[Place, JobClass]], runners: int, covered: Cover, waiting: Mapping[JobClass, list[Place]]
) -> int:
    """Give that many runners to the oldest jobs; returns how many found one."""
    # Ties never reach the classes: places hold the jobs' ids, which are unique.
    heapify(heads)
    for taken in range(runners):
        if not heads:
            return taken
        _, job_class = heads[0]
        covered[job_class] = covered.get(job_class, 0) + 1
        queue = waiting[job_class]
        if covered[job_class] < len(queue):
            heapreplace(heads, (queue[covered[job_class]], job_class))
        else:
            heappop(heads)
    return runners
