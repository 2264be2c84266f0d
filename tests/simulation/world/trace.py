"""Recorded jobs, one JSON object a line: time (seconds), entity (owner/name), labels, duration (seconds)."""

from pathlib import Path
from typing import Final

import msgspec

from hostler.errors import HostlerError
from tests.simulation.world.scenario import (
    DRIVER,
    Faults,
    HostSpec,
    JobSpec,
    Kind,
    PoolSpec,
    Repository,
    Scenario,
    faults_of,
)

_HOSTS: Final = 4
_VCPUS: Final = 16
_FAULTY_SECONDS: Final = 600.0


class TraceUnusable(HostlerError):
    code = "trace_unusable"


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    time: float
    entity: str
    labels: list[str]
    duration: float

    def __post_init__(self) -> None:
        if self.time < 0 or self.duration < 0:
            raise ValueError("time and duration must not be negative")
        if self.entity.count("/") != 1 or not self.labels:
            raise ValueError("entity must be owner/name, and labels must not be empty")


def read(path: Path) -> tuple[JobSpec, ...]:
    """The jobs by time.

    Raises:
        TraceUnusable: says which line, and why.
    """
    jobs = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            told = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            raise TraceUnusable(
                f"{path}:{number}: {error}",
                hint='a line is {"time": 0.5, "entity": "octo/app", "labels": ["linux"], "duration": 30}',
            ) from error
        jobs.append(JobSpec(told.time, told.entity, tuple(told.labels), told.duration))
    return tuple(sorted(jobs, key=lambda job: job.time))


def replay(jobs: tuple[JobSpec, ...], seed: int, *, faults: bool = False, max_runners: int = 100) -> Scenario:
    """A farm for these jobs: a pool for each of a repository's sets of labels, and a few hosts.

    `faults`: things go wrong, by the seed, until some minutes after the last job has come; else nothing does.
    """
    entities = sorted({job.entity for job in jobs})
    kinds = sorted({(job.entity, tuple(sorted(job.labels))) for job in jobs})
    return Scenario(
        seed=seed,
        kind=Kind.CHAOS,  # of other people's labels nothing is known: one runner may serve jobs of several sets
        repositories=tuple(Repository(name, "one") for name in entities),
        pools=tuple(
            PoolSpec(f"pool-{number}", entity, labels, DRIVER, max_runners=max_runners)
            for number, (entity, labels) in enumerate(kinds)
        ),
        hosts=tuple(HostSpec(f"host-{number}", _VCPUS, _VCPUS * 4096, _VCPUS * 50) for number in range(_HOSTS)),
        jobs=jobs,
        creates_per_host=8,
        faults=faults_of(seed, jobs[-1].time + _FAULTY_SECONDS) if faults else Faults(),
    )
