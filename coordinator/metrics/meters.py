"""What this process counts and measures while it works. Names and labels of docs/metrics.md."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from coordinator.metrics.durations import parts, ran, waited
from coordinator.store.ways import JobWay

_MOST_SERIES: Final = 500
_OTHER: Final = "other"
_QUICK: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WAITS: Final = (*_QUICK[3:], 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_RUNS: Final = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0)


disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of when it began, that nobody asks for


class Bounded:
    """Lets so many sets of labels through and calls the rest `other`: nobody outside may make series without end."""

    def __init__(self, most: int = _MOST_SERIES) -> None:
        self._most = most
        self._known: set[tuple[str, ...]] = set()

    def __call__(self, *labels: str) -> tuple[str, ...]:
        if labels not in self._known:
            if len(self._known) >= self._most:
                return (_OTHER,) * len(labels)
            self._known.add(labels)
        return labels


class _Webhooks(Collector):
    """A counter by GARM's name, which does not end as Prometheus wants counters' names to end."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, valid: bool, reason: str) -> None:
        key = (str(valid).lower(), reason)
        self._counts[key] = self._counts.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        family = Metric("garm_webhook_received", "Webhooks received, by whether they were taken.", "unknown")
        for (valid, reason), count in self._counts.items():
            family.add_sample("garm_webhook_received", {"valid": valid, "reason": reason}, count)
        yield family


class Meters:
    """One for each coordinator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._webhooks = _Webhooks()
        self.registry.register(self._webhooks)
        self._planned = Histogram(
            "hostler_plan_seconds", "One pass of the planner.", buckets=_QUICK, registry=self.registry
        )
        self._parts = Histogram(
            "hostler_job_part_seconds",
            "Parts of jobs' ways to their machines.",
            ("part", "pool", "entity"),
            buckets=_WAITS,
            registry=self.registry,
        )
        self._waits = Histogram(
            "hostler_job_wait_seconds",
            "From the first word of a job until it ran.",
            ("pool", "entity"),
            buckets=_WAITS,
            registry=self.registry,
        )
        self._queue = Histogram(
            "garm_job_queue_duration_seconds",
            "From the first word of a job until it ran.",
            ("owner",),
            buckets=_WAITS,
            registry=self.registry,
        )
        self._runs = Histogram(
            "garm_job_execution_duration_seconds",
            "How long jobs ran.",
            ("owner",),
            buckets=_RUNS,
            registry=self.registry,
        )
        self._completed = Counter(
            "garm_job_completed",
            "Jobs that have ended.",
            ("owner", "repository", "conclusion"),
            registry=self.registry,
        )
        self._pools, self._owners, self._ends = Bounded(), Bounded(), Bounded()

    def webhook(self, valid: bool, reason: str) -> None:
        """A delivery was taken, or refused for a reason; `reason` is one of few words."""
        self._webhooks.add(valid, reason)

    def planned(self, seconds: float) -> None:
        self._planned.observe(seconds)

    def began(self, way: JobWay) -> None:
        """A job runs."""
        pool, entity = self._pools(way.pool, way.entity)
        for part, seconds in parts(way.entries).items():
            self._parts.labels(part, pool, entity).observe(seconds)
        wait = waited(way.entries)
        if wait is not None:
            self._waits.labels(pool, entity).observe(wait)
            self._queue.labels(*self._owners(way.owner)).observe(wait)

    def ended(self, way: JobWay) -> None:
        """A job is completed."""
        seconds = ran(way.entries)
        if seconds is not None:
            self._runs.labels(*self._owners(way.owner)).observe(seconds)
        self._completed.labels(*self._ends(way.owner, way.repository, way.conclusion)).inc()
