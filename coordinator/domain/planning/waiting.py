"""Queued jobs, by class: jobs of one entity, label set and priority are alike to the planner, the oldest first."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from coordinator.domain.job import Job
from coordinator.domain.labels import Labels


class JobClass(NamedTuple):
    entity_id: str
    labels: Labels
    priority: int


Place = tuple[datetime, str]
"""A job's place in its class: when it was queued, and its id."""


class Waiting:
    """All queued jobs that may be given a machine now."""

    def __init__(self) -> None:
        self._classes: dict[str, dict[JobClass, list[Place]]] = {}  # by entity
        self._of_job: dict[str, tuple[JobClass, Place]] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._of_job

    def __len__(self) -> int:
        return len(self._of_job)

    def put(self, job: Job, priority: int) -> str:
        """Take in a queued job, or its change; returns its entity."""
        job_class, place = JobClass(job.entity_id, job.labels, priority), (job.queued_at, job.id)
        if self._of_job.get(job.id) == (job_class, place):
            return job.entity_id
        self.drop(job.id)
        self._of_job[job.id] = (job_class, place)
        insort(self._classes.setdefault(job.entity_id, {}).setdefault(job_class, []), place)
        return job.entity_id

    def rank(self, entity_id: str, priority: Callable[[Labels], int]) -> None:
        """Put an entity's jobs in the classes of its priorities as they are now."""
        changed = [old for old in self.of(entity_id) if old.priority != priority(old.labels)]
        queues = [(old, self._classes[entity_id].pop(old)) for old in changed]
        for old, queue in queues:
            new = old._replace(priority=priority(old.labels))
            for place in queue:
                self._of_job[place[1]] = (new, place)
            self._classes[entity_id][new] = sorted(self._classes[entity_id].get(new, []) + queue)

    def drop(self, job_id: str) -> str | None:
        """Forget a job that is not queued any more; returns its entity if it was known."""
        known = self._of_job.pop(job_id, None)
        if known is None:
            return None
        job_class, place = known
        classes = self._classes[job_class.entity_id]
        queue = classes[job_class]
        del queue[bisect_left(queue, place)]
        if not queue:
            del classes[job_class]
            if not classes:
                del self._classes[job_class.entity_id]
        return job_class.entity_id

    def entities(self) -> Iterator[str]:
        return iter(self._classes)

    def of(self, entity_id: str) -> Mapping[JobClass, list[Place]]:
        return self._classes.get(entity_id, {})

    def find(self, job_id: str) -> tuple[JobClass, Place] | None:
        """The job's class and its place there; None when it is not waiting."""
        return self._of_job.get(job_id)
