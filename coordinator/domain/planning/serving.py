"""Tallies of the idle and coming runners: how many of each kind there are, since when, and whose demand caused them."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta

from coordinator.domain.instance import Instance
from coordinator.domain.labels import Labels
from coordinator.domain.planning.waiting import JobClass, Place


class Serving:
    def __init__(self) -> None:
        self._of_entity: defaultdict[str, Counter[Labels]] = defaultdict(Counter)
        self._of_pool: defaultdict[str, dict[str, Instance]] = defaultdict(dict)
        self._idle: defaultdict[str, defaultdict[Labels, dict[str, datetime]]] = defaultdict(lambda: defaultdict(dict))
        self._for_job: Counter[str] = Counter()

    def count(self, instance: Instance, count: int) -> None:
        """Count a runner that serves demand; with -1, not any more."""
        self._of_entity[instance.entity_id][instance.labels] += count
        self._for_job[instance.for_job] += count
        if not self._for_job[instance.for_job]:
            del self._for_job[instance.for_job]
        idle = self._idle[instance.entity_id][instance.labels]
        if count > 0:
            self._of_pool[instance.pool_id][instance.id] = instance
            if instance.is_idle and instance.idle_since is not None:
                idle[instance.id] = instance.idle_since
        else:
            self._of_pool[instance.pool_id].pop(instance.id, None)
            idle.pop(instance.id, None)

    def of_pool(self, pool_id: str) -> Mapping[str, Instance]:
        """Those of one pool, by id."""
        return self._of_pool[pool_id]

    def has_own(self, job_id: str) -> bool:
        """Whether one of them was made for this very job."""
        return job_id in self._for_job

    def trusted(
        self, entity_id: str, waiting: Mapping[JobClass, list[Place]], now: datetime, trust: timedelta
    ) -> tuple[Counter[Labels], datetime | None]:
        """The entity's runners by labels, and until when time alone does not change them.

        A runner that has been idle beside a waiting job for longer than `trust` will not take it: its program may have
        died. It is left out, so that the job gets another machine, and the forge is asked before this one is taken
        away.
        """
        serving = +self._of_entity[entity_id]
        then = now - trust
        changes = []
        for labels, since in self._idle[entity_id].items():
            heads = [queue[0][0] for job_class, queue in waiting.items() if job_class.labels <= labels]
            if not heads or not since:
                continue
            beside = [max(min(heads), one) for one in since.values()]
            serving[labels] -= sum(one <= then for one in beside)
            changes += [one + trust for one in beside if one > then]
        return +serving, min(changes, default=None)
