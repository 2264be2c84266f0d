"""Instances: one machine and the one runner in it, with both of their states and which changes are legal."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from coordinator.domain.labels import Labels
from coordinator.domain.resources import Resources
from hostler.errors import HostlerError


class Status(StrEnum):
    """GARM's provider status: what is known of the machine."""

    PENDING_CREATE = "pending_create"
    CREATING = "creating"
    RUNNING = "running"
    STOPPED = "stopped"
    ERROR = "error"
    PENDING_DELETE = "pending_delete"
    PENDING_FORCE_DELETE = "pending_force_delete"
    DELETING = "deleting"
    DELETED = "deleted"


class RunnerStatus(StrEnum):
    """GARM's runner status: what is known of the runner in the machine."""

    PENDING = "pending"
    INSTALLING = "installing"
    IDLE = "idle"
    ACTIVE = "active"
    OFFLINE = "offline"
    FAILED = "failed"
    TERMINATED = "terminated"


_DELETES: Final = frozenset({Status.PENDING_DELETE, Status.PENDING_FORCE_DELETE})

NEXT: Final[Mapping[Status, frozenset[Status]]] = {
    # Phases may overtake each other: a machine may be heard of as running before it was heard of as begun.
    Status.PENDING_CREATE: frozenset({Status.CREATING, Status.RUNNING, Status.STOPPED, Status.ERROR}) | _DELETES,
    Status.CREATING: frozenset({Status.RUNNING, Status.STOPPED, Status.ERROR}) | _DELETES,
    Status.RUNNING: frozenset({Status.STOPPED, Status.ERROR}) | _DELETES,
    Status.STOPPED: frozenset({Status.RUNNING, Status.ERROR}) | _DELETES,
    Status.ERROR: _DELETES,
    Status.PENDING_DELETE: frozenset({Status.DELETING, Status.DELETED, Status.PENDING_FORCE_DELETE}),
    Status.PENDING_FORCE_DELETE: frozenset({Status.DELETING, Status.DELETED}),
    Status.DELETING: frozenset({Status.DELETED, Status.PENDING_FORCE_DELETE}),
    Status.DELETED: frozenset(),
}

NEXT_RUNNER: Final[Mapping[RunnerStatus, frozenset[RunnerStatus]]] = {
    RunnerStatus.PENDING: frozenset(set(RunnerStatus) - {RunnerStatus.PENDING}),
    RunnerStatus.INSTALLING: frozenset(set(RunnerStatus) - {RunnerStatus.PENDING, RunnerStatus.INSTALLING}),
    RunnerStatus.IDLE: frozenset(
        {RunnerStatus.ACTIVE, RunnerStatus.OFFLINE, RunnerStatus.FAILED, RunnerStatus.TERMINATED}
    ),
    RunnerStatus.OFFLINE: frozenset(
        {RunnerStatus.IDLE, RunnerStatus.ACTIVE, RunnerStatus.FAILED, RunnerStatus.TERMINATED}
    ),
    RunnerStatus.ACTIVE: frozenset({RunnerStatus.TERMINATED, RunnerStatus.FAILED}),
    RunnerStatus.FAILED: frozenset({RunnerStatus.TERMINATED}),
    RunnerStatus.TERMINATED: frozenset(),
}

GOING: Final = frozenset({Status.ERROR, Status.PENDING_DELETE, Status.PENDING_FORCE_DELETE, Status.DELETING})
"""The machine is on its way out; its place is still taken."""

COMING: Final = frozenset({Status.PENDING_CREATE, Status.CREATING, Status.RUNNING})
BOOTING: Final = frozenset({RunnerStatus.PENDING, RunnerStatus.INSTALLING})
"""Its runner is not up yet."""

UNTAKEN: Final = frozenset({RunnerStatus.PENDING, RunnerStatus.INSTALLING, RunnerStatus.IDLE, RunnerStatus.OFFLINE})


class IllegalTransition(HostlerError):
    """A state cannot follow the one that is."""

    code = "illegal_transition"


class Instance(msgspec.Struct, frozen=True):
    id: str  # UUID
    name: str  # of the machine and of its runner
    pool_id: str
    entity_id: str
    provider: str
    host: str  # empty: the provider is a cloud's
    image: str
    resources: Resources
    labels: Labels
    status: Status
    runner_status: RunnerStatus
    generation: int  # counts commands: a delete is younger than the create it undoes
    created_at: datetime
    changed_at: datetime
    bootstrap_deadline: datetime  # until then its runner must be online
    idle_since: datetime | None = None
    job_id: str = ""
    provider_id: str = ""
    forge_runner_id: int = 0
    fault: str = ""
    pool_generation: int = 0  # its pool's when it was made
    for_job: str = ""  # whose demand caused it; it may run another

    @property
    def serves_demand(self) -> bool:
        """Its runner is idle or coming and may take any job that its labels serve."""
        return self.status in COMING and self.runner_status in UNTAKEN and not self.job_id

    @property
    def is_idle(self) -> bool:
        """Its runner is up and waits for a job."""
        return self.status is Status.RUNNING and self.runner_status is RunnerStatus.IDLE and not self.job_id


State = TypeVar("State", Status, RunnerStatus)


def _step(table: Mapping[State, frozenset[State]], old: State, new: State, name: str) -> State:
    if new is not old and new not in table[old]:
        raise IllegalTransition(f"instance {name}: {old} cannot become {new}")
    return new


def advance(
    instance: Instance,
    now: datetime,
    *,
    status: Status | None = None,
    runner_status: RunnerStatus | None = None,
    fault: str = "",
) -> Instance:
    """The instance in its next state; the only way to change either status. `changed_at` moves only with a change.

    Raises:
        IllegalTransition: the tables do not know this step.
    """
    next_status = _step(NEXT, instance.status, status or instance.status, instance.name)
    next_runner = _step(NEXT_RUNNER, instance.runner_status, runner_status or instance.runner_status, instance.name)
    becomes_idle = next_runner is RunnerStatus.IDLE and instance.runner_status is not RunnerStatus.IDLE
    begins_delete = next_status in _DELETES and instance.status not in _DELETES
    changed = msgspec.structs.replace(
        instance,
        status=next_status,
        runner_status=next_runner,
        idle_since=now if becomes_idle else instance.idle_since,
        generation=instance.generation + 1 if begins_delete else instance.generation,
        fault=fault or instance.fault,
    )
    return instance if changed == instance else msgspec.structs.replace(changed, changed_at=now)


def can(instance: Instance, status: Status) -> bool:
    """Whether `status` may follow."""
    return status in NEXT[instance.status]


def can_runner(instance: Instance, status: RunnerStatus) -> bool:
    return status in NEXT_RUNNER[instance.runner_status]
