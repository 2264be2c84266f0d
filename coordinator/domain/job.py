"""Jobs as the forges report them, and how events are folded into what is known."""

from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from coordinator.domain.labels import Labels


class JobStatus(StrEnum):
    WAITING = "waiting"  # held back by the forge (an environment gate): no demand yet
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


RANK: Final = {JobStatus.WAITING: 0, JobStatus.QUEUED: 1, JobStatus.IN_PROGRESS: 2, JobStatus.COMPLETED: 3}


class JobKey(msgspec.Struct, frozen=True):
    """What makes a job one job: state is monotone on it.

    The entity is part of it. Whoever has one repository's secret can sign any id, so a job of another repository with
    the same id is another job: neither hides the other.
    """

    endpoint_id: str
    forge_job_id: int
    attempt: int
    entity_id: str


class JobEvent(msgspec.Struct, frozen=True):
    """What one webhook says of one job."""

    key: JobKey
    status: JobStatus
    labels: Labels
    name: str
    workflow: str
    run_id: int
    received_at: datetime
    runner_name: str = ""
    conclusion: str = ""
    html_url: str = ""

    @property
    def entity_id(self) -> str:
        return self.key.entity_id


class Job(msgspec.Struct, frozen=True):
    id: str
    key: JobKey
    status: JobStatus
    labels: Labels
    name: str
    workflow: str
    run_id: int
    queued_at: datetime  # since when it has been wanted: first heard of, but not while the forge held it back
    changed_at: datetime
    runner_name: str = ""
    instance_id: str = ""  # set from in_progress on, when the runner is ours
    conclusion: str = ""
    html_url: str = ""
    tries: int = 0  # machines made for it that came to nothing
    retry_at: datetime | None = None  # after too many, no machine is made for it before
    fault: str = ""  # why the last one came to nothing

    @property
    def entity_id(self) -> str:
        return self.key.entity_id


def fold(job: Job | None, event: JobEvent, new_id: str) -> Job | None:
    """The job after the event, or None when the event tells nothing new.

    Monotone: late, repeated and reordered events end in the same state (GitHub promises no order of deliveries).
    """
    if job is None:
        return Job(
            id=new_id,
            key=event.key,
            status=event.status,
            labels=event.labels,
            name=event.name,
            workflow=event.workflow,
            run_id=event.run_id,
            queued_at=event.received_at,
            changed_at=event.received_at,
            runner_name=event.runner_name,
            conclusion=event.conclusion,
            html_url=event.html_url,
        )
    # A late event takes nothing back, but may tell what the ones before it left out.
    told = msgspec.structs.replace(
        job,
        status=max(job.status, event.status, key=RANK.__getitem__),
        queued_at=event.received_at if _let_through(job, event) else job.queued_at,
        runner_name=job.runner_name or event.runner_name,
        conclusion=job.conclusion or event.conclusion,
    )
    return None if told == job else msgspec.structs.replace(told, changed_at=event.received_at)


def _let_through(job: Job, event: JobEvent) -> bool:
    return job.status is JobStatus.WAITING and event.status is not JobStatus.WAITING
