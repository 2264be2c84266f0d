"""What the coordinator asks of a forge, and the errors it may get."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

import msgspec

from coordinator.domain.labels import Labels
from hostler.errors import HostlerError
from providers.exec.spec import Tool


class ForgeError(HostlerError):
    """A forge did not do what it was asked."""

    code = "forge_failed"


class ForgeUnavailable(ForgeError):
    """The forge is down, slow or limits us: the same call may go well later.

    `retry_after`: the forge wants no call with these credentials before; None: it says nothing of that.
    """

    code = "forge_unavailable"

    def __init__(self, message: str, *, hint: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ForgeRefused(ForgeError):
    """The forge says no, and will say so again until somebody changes something."""

    code = "forge_refused"


class RunnerBusy(ForgeError):
    """The runner has a job and cannot be removed."""

    code = "runner_busy"


class RunnerExists(ForgeError):
    """There is a runner of that name already."""

    code = "runner_exists"


class RunnerConfiguration(msgspec.Struct, frozen=True):
    """A just-in-time runner: its id at the forge and the files its program starts from. Holds secrets."""

    runner_id: int
    files: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"RunnerConfiguration(runner_id={self.runner_id}, files={sorted(self.files)})"


class ForgeRunner(msgspec.Struct, frozen=True):
    """A runner as the forge lists it."""

    id: int
    name: str
    status: str  # online or offline
    busy: bool


class ForgeJob(msgspec.Struct, frozen=True):
    """A job as the forge shows it."""

    status: str  # queued, in_progress, completed or waiting, and others at other forges
    conclusion: str | None = None
    runner_name: str | None = None
    id: int = 0
    run_id: int = 0
    run_attempt: int = 1
    labels: list[str] = []
    name: str = ""
    workflow_name: str | None = None
    html_url: str | None = None


class Webhook(msgspec.Struct, frozen=True):
    """One that a forge sends."""

    id: int
    url: str
    active: bool
    events: list[str]
    insecure_ssl: bool


class OpenRuns(msgspec.Struct, frozen=True):
    """Workflow runs that have not ended; any may have jobs that wait.

    `budget_left`: what the credential's rate limit has left, as a share of the whole.
    """

    ids: tuple[int, ...]
    budget_left: float = 1.0


class Forge(Protocol):
    """One entity at one forge. Every method raises ForgeUnavailable or ForgeRefused."""

    async def configure_runner(self, name: str, labels: Labels, group: str) -> RunnerConfiguration:
        """Register a runner for one job.

        Raises:
            RunnerExists: the name is taken, perhaps by an earlier call whose answer was lost.
        """
        ...

    async def runner_named(self, name: str) -> ForgeRunner | None: ...

    async def runners(self) -> list[ForgeRunner]:
        """Every runner of the entity, ours and others'; a list that may lack some is never returned."""
        ...

    async def job(self, forge_job_id: int) -> ForgeJob | None:
        """What the forge says of a job; None when it has none of that id."""
        ...

    async def open_runs(self) -> OpenRuns:
        """Where jobs may be that have not ended. May lack some, for lists change while they are read."""
        ...

    async def jobs_of_run(self, run_id: int) -> list[ForgeJob]:
        """The jobs of a run's latest attempt, ended ones too; none when there is no such run any more."""
        ...

    async def remove_runner(self, runner_id: int) -> None:
        """Deregister; a runner that is not there is fine.

        Raises:
            RunnerBusy: it has a job.
        """
        ...

    async def tools(self) -> list[Tool]:
        """Downloads of the runner program."""
        ...


class Hooks(Protocol):
    """The webhooks of one entity at one forge. Every method raises ForgeUnavailable or ForgeRefused."""

    async def webhooks(self) -> list[Webhook]: ...

    async def install_webhook(self, url: str, secret: str, *, insecure_ssl: bool) -> Webhook:
        """One that tells of jobs.

        Args:
            insecure_ssl: the forge is not to look at our certificate.
        """
        ...

    async def remove_webhook(self, webhook_id: int) -> None:
        """One that is not there is fine."""
        ...
