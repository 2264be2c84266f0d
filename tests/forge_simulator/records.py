"""What the simulated forge knows: repositories, hooks, runners, jobs and deliveries, as values."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

Status = Literal["waiting", "queued", "in_progress", "completed"]
Conclusion = Literal["success", "failure", "cancelled"]
Area = Literal["administration", "actions", "webhooks", "metadata"]
Level = Literal["read", "write"]
Permissions = dict[Area, Level]
Clock = Callable[[], datetime]

EVERYTHING: Final[Permissions] = {"administration": "write", "actions": "write", "webhooks": "write"}
ASKED_FOR: Final[Permissions] = {"administration": "write", "actions": "read"}
"""What README asks a fine-grained token to have."""

DEFAULT_GROUP_ID = 1
DEFAULT_GROUP_NAME = "Default"


def utc_now() -> datetime:
    return datetime.now(UTC)


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    owner: str
    owner_id: int
    name: str

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-grained personal access token. Each may read the metadata of its repositories."""

    value: str
    user_id: int
    repositories: tuple[str, ...]
    permissions: Permissions

    def may(self, area: Area, level: Level) -> bool:
        """GitHub docs, permissions required for fine-grained personal access tokens: to write includes to read."""
        has = self.permissions.get(area, "read" if area == "metadata" else None)
        return has in ("write", level)


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    repository_id: int
    url: str
    secret: str
    events: tuple[str, ...]
    created_at: datetime
    active: bool = True


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    repository_id: int
    labels: tuple[str, ...]
    work_folder: str
    token: str
    online: bool = False
    job_id: int | None = None

    def matches(self, labels: tuple[str, ...]) -> bool:
        """Say whether this runner has all of `labels`; GitHub compares them without regard to case."""
        return {label.lower() for label in labels} <= {label.lower() for label in self.labels}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    run_id: int
    run_attempt: int
    repository_id: int
    name: str
    workflow_name: str
    labels: tuple[str, ...]
    script: str
    head_sha: str
    status: Status
    created_at: datetime
    conclusion: Conclusion | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    runner_id: int | None = None
    runner_name: str | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to deliver a webhook. A redelivery has a new id and the old guid."""

    id: int
    guid: str
    hook_id: int
    event: str
    action: str | None
    repository_id: int
    redelivery: bool
    delivered_at: datetime
    duration_seconds: float
    status: str
    status_code: int
    request_headers: dict[str, str]
    body: bytes
    response_body: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that outlives the process in the state file, and what a client needs to find and drive the simulator."""

    base_url: str
    api_url: str
    control_token: str
    next_id: int
    repositories: list[Repository]
    tokens: list[Token]
    hooks: list[Hook]
    runners: list[Runner]
    jobs: list[Job]
    logs: dict[int, str]
