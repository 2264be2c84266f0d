"""What facts do to an instance: phases from its host, calls from its guest, jobs from its forge. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from coordinator.domain.instance import BOOTING, Instance, RunnerStatus, Status, advance, can, can_runner
from coordinator.domain.job import Job, JobStatus
from hostler.images import FETCH_LIMIT
from hostler.phases import Phase as Phase


class Step(StrEnum):
    """Entries of the timelines of jobs and instances."""

    WEBHOOK = "webhook"
    COMMITTED = "committed"
    PLANNED = "planned"
    DISPATCHED = "dispatched"
    ACCEPTED = "accepted"
    FETCHING = "fetching image"
    IMAGE = "image"
    DISK = "disk"
    STARTED = "started"
    BOOTED = "booted"
    RUNNER_CONFIGURED = "runner configured"
    RUNNER_ONLINE = "runner online"
    RUNNING = "job running"
    COMPLETED = "completed"
    RETIRED = "retired"
    STOPPED = "stopped"
    FAILED = "failed"
    DELETE_FAILED = "delete failed"
    VANISHED = "vanished"
    LOST = "lost"
    DESTROYED = "destroyed"
    DRAINED = "host drained"


PHASE_STEP: Final[Mapping[Phase, Step]] = {
    Phase.ACCEPTED: Step.ACCEPTED,
    Phase.FETCHING: Step.FETCHING,
    Phase.IMAGE: Step.IMAGE,
    Phase.DISK: Step.DISK,
    Phase.STARTED: Step.STARTED,
    Phase.STOPPED: Step.STOPPED,
    Phase.FAILED: Step.FAILED,
    Phase.DELETED: Step.DESTROYED,
    Phase.DELETE_FAILED: Step.DELETE_FAILED,
}

_PHASE_STATUS: Final[Mapping[Phase, Status]] = {
    Phase.ACCEPTED: Status.CREATING,
    Phase.STARTED: Status.RUNNING,
    Phase.STOPPED: Status.STOPPED,
    Phase.FAILED: Status.ERROR,
}


DRIVER_OUT: Final = "driver_out"
"""Code of another: the host has said, or says at once, that it cannot use the instance's driver now."""

REFUSED: Final = "host_under_pressure"
"""Code of a failure that is none: the host is short of something, has said so, and made nothing."""


class Changed(msgspec.Struct, frozen=True):
    """An instance after a fact, and whether the fact was a failure of its pool or host."""

    instance: Instance
    failed: bool = False
    ended_idle: bool = False  # its runner was up and nobody has said that it took a job


def on_phase(instance: Instance, phase: Phase, now: datetime, detail: str = "", code: str = "") -> Changed:
    """Fold a phase in. Late and repeated phases change nothing.

    A machine that stops or fails has no further use: it goes on to be deleted, and its job, if it had not begun,
    is free at once. `code`: of the error, where the phase is one.
    """
    if instance.status is Status.DELETED:
        return Changed(instance)
    if phase is Phase.DELETED:
        return Changed(_deleted(instance, now))
    if phase is Phase.DELETE_FAILED:
        return Changed(msgspec.structs.replace(instance, fault=detail or instance.fault))
    status = _PHASE_STATUS.get(phase)
    if status is None or status is instance.status or not can(instance, status):
        return Changed(instance)
    if phase in (Phase.ACCEPTED, Phase.STARTED):
        return Changed(advance(instance, now, status=status))
    gone = advance(instance, now, status=status, fault=detail)
    failed = instance.runner_status in BOOTING and code not in (REFUSED, DRIVER_OUT)
    return Changed(finish(gone, now), failed=failed, ended_idle=instance.is_idle)


IMAGE_PHASES: Final = (Phase.FETCHING, Phase.IMAGE)


def on_image(instance: Instance, phase: Phase, now: datetime, timeout: timedelta) -> Instance:
    """The time in which its runner must come up begins when its image is there; the fetch has a limit of its own.

    `now` is ours, not the host's, for deadlines are: to be called for the first such word only.
    """
    if instance.runner_status not in BOOTING:
        return instance
    deadline = now + timeout + (FETCH_LIMIT if phase is Phase.FETCHING else timedelta())
    return msgspec.structs.replace(instance, bootstrap_deadline=deadline)


def _deleted(instance: Instance, now: datetime) -> Instance:
    if not can(instance, Status.DELETED):
        instance = advance(instance, now, status=Status.PENDING_DELETE)
    runner = RunnerStatus.TERMINATED if can_runner(instance, RunnerStatus.TERMINATED) else None
    return advance(instance, now, status=Status.DELETED, runner_status=runner)


def finish(instance: Instance, now: datetime, fault: str = "") -> Instance:
    """The instance on its way to deletion; its runner has ended. No change when it is on its way already."""
    runner = RunnerStatus.TERMINATED if can_runner(instance, RunnerStatus.TERMINATED) else None
    status = Status.PENDING_DELETE if can(instance, Status.PENDING_DELETE) else None
    if status is None and runner is None:
        return instance
    return advance(instance, now, status=status, runner_status=runner, fault=fault)


def lose(instance: Instance, now: datetime, fault: str) -> Instance:
    """The instance when its host will not say any more what has become of it."""
    if can(instance, Status.PENDING_FORCE_DELETE):
        instance = advance(instance, now, status=Status.PENDING_FORCE_DELETE, fault=fault)
    return _deleted(instance, now)


def on_job(instance: Instance, job: Job, now: datetime) -> Instance:
    """Bind the job to the instance whose runner took it, and end the instance with the job."""
    if instance.job_id and instance.job_id != job.id:
        return instance
    bound = msgspec.structs.replace(instance, job_id=job.id)
    if job.status is JobStatus.COMPLETED:
        return finish(bound, now)
    if job.status is JobStatus.IN_PROGRESS and can_runner(bound, RunnerStatus.ACTIVE):
        return advance(bound, now, runner_status=RunnerStatus.ACTIVE)
    return bound
