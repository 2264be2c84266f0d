"""How much of the demand idle and coming runners cover already."""

from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from itertools import pairwise

from coordinator.domain.labels import Labels
from coordinator.domain.planning.waiting import JobClass, Place


class Cover(dict[JobClass, int]):
    """Per class, how many of its oldest jobs have a runner coming; `used`: per runners' labels, how many are needed."""

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[Labels, int] = {}
        self.until: datetime | None = None  # when time alone may change it


def cover(waiting: Mapping[JobClass, list[Place]], serving: Mapping[Labels, int]) -> Cover:
    """Set the runners against the jobs: as many jobs as possible have one, and of all such ways the oldest have.

    A runner is never promised to a job, since any with a superset of the labels may take any job: what counts is how
    many of each kind there are. Oldest first, whatever the priority, because forges give a runner that comes to the job
    that has been queued longest; what is left is then ordered by priority. Where a job has a choice, the most special
    runners (fewest labels) are set first: the others could serve more.

    Args:
        waiting: the classes of one entity.
        serving: labels of its idle and coming runners, and how many there are.
    """
    covered = Cover()
    flow = _Flow(waiting, serving)
    heads = [(queue[0], job_class) for job_class, queue in waiting.items() if flow.runners_of[job_class]]
    # Ties never reach the classes: places hold the jobs' ids, which are unique.
    heapify(heads)
    while heads:
        _, job_class = heads[0]
        queue, begun = waiting[job_class], covered.get(job_class, 0)
        until = min((head[0] for head in heads[1:3]), default=None)  # the smaller child of the heap's top is the next
        run = len(queue) if until is None else bisect_left(queue, until, lo=begun)
        gets = flow.push(job_class, run - begun)
        if gets:
            covered[job_class] = begun + gets
        if gets == run - begun and run < len(queue):
            heapreplace(heads, (queue[run], job_class))
        else:  # all of the class are covered, or no runner is to be had for the rest
            heappop(heads)
    covered.used = {labels: serving[labels] - left for labels, left in flow.left.items()}
    return covered


class _Flow:
    """Runners given to classes of jobs so that more can be given when those that have some move to others.

    Whoever has got a runner keeps one: giving only ever adds a job. So the jobs that are asked for first have them, and
    in the end there is no way to serve one more (augmenting paths; Ford and Fulkerson, over classes with counts).
    """

    def __init__(self, waiting: Mapping[JobClass, list[Place]], serving: Mapping[Labels, int]) -> None:
        kinds = sorted(serving, key=lambda one: (len(one), sorted(one)))
        self.left = {kind: serving[kind] for kind in kinds}
        self.runners_of = {one: [kind for kind in kinds if one.labels <= kind] for one in waiting}
        self._given: dict[Labels, dict[JobClass, int]] = {kind: {} for kind in kinds}

    def push(self, job_class: JobClass, wanted: int) -> int:
        """Give that many runners to the class, or as many as there are; returns how many it got."""
        got = 0
        while got < wanted:
            path = self._path(job_class)
            if not path:
                return got
            got += self._give(path, wanted - got)
        return got

    def _path(self, job_class: JobClass) -> list[tuple[JobClass, Labels]]:
        """The shortest chain in which each class takes runners of the kind, of which the next class gives up its own;
        of the last kind some are left. Empty: there is none.
        """
        came: dict[JobClass, tuple[JobClass, Labels] | None] = {job_class: None}
        seen: set[Labels] = set()
        queue = [job_class]
        for taker in queue:
            for kind in self.runners_of[taker]:
                if kind in seen:
                    continue
                seen.add(kind)
                if self.left[kind] > 0:
                    return _traced(came, taker, kind)
                for giver, count in self._given[kind].items():
                    if giver not in came and count > 0:
                        came[giver] = (taker, kind)
                        queue.append(giver)
        return []

    def _give(self, path: list[tuple[JobClass, Labels]], most: int) -> int:
        """Move runners along the chain; returns how many there were."""
        givers = [(kind, giver) for (_, kind), (giver, _) in pairwise(path)]
        last = path[-1][1]
        count = min(most, self.left[last], *(self._given[kind][giver] for kind, giver in givers))
        for taker, kind in path:
            self._given[kind][taker] = self._given[kind].get(taker, 0) + count
        for kind, giver in givers:
            self._given[kind][giver] -= count
        self.left[last] -= count
        return count


def _traced(
    came: Mapping[JobClass, tuple[JobClass, Labels] | None], taker: JobClass, kind: Labels
) -> list[tuple[JobClass, Labels]]:
    path = [(taker, kind)]
    while (step := came[path[-1][0]]) is not None:
        path.append(step)
    return path[::-1]
