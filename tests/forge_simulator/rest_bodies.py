"""The JSON shapes of GitHub's REST answers."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from tests.forge_simulator import jitconfig
from tests.forge_simulator.ratelimit import CORE, Usage
from tests.forge_simulator.records import DEFAULT_GROUP_ID, Conclusion, Delivery, Hook, Job, Repository, Runner, Status
from tests.forge_simulator.webhook_bodies import Addresses, github_time, repository_fields


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow run as its jobs make it."""

    id: int
    name: str
    attempt: int
    status: Status
    conclusion: Conclusion | None
    head_sha: str
    created_at: datetime


def runs(jobs: Iterable[Job]) -> list[Run]:
    """Group jobs into runs, oldest first.

    A run is queued only while all its jobs are; it is in progress as soon as one has begun and until the last ends,
    so a run in progress can have queued jobs.
    """
    by_run: dict[int, list[Job]] = {}
    for job in jobs:
        by_run.setdefault(job.run_id, []).append(job)
    return [_run(members) for members in by_run.values()]


def _run(jobs: list[Job]) -> Run:
    states = {job.status for job in jobs}
    status: Status = "in_progress"
    if len(states) == 1:
        status = states.pop()
    elif states == {"waiting", "queued"}:
        status = "queued"
    ends = {job.conclusion for job in jobs}
    conclusion: Conclusion = "failure" if "failure" in ends else "cancelled" if "cancelled" in ends else "success"
    first = jobs[0]
    return Run(
        id=first.run_id,
        name=first.workflow_name,
        attempt=first.run_attempt,
        status=status,
        conclusion=conclusion if status == "completed" else None,
        head_sha=first.head_sha,
        created_at=first.created_at,
    )


def run(shown: Run, repository: Repository, addresses: Addresses) -> dict[str, Any]:
    url = f"{addresses.repository(repository)}/actions/runs/{shown.id}"
    return {
        "id": shown.id,
        "name": shown.name,
        "run_number": shown.id,
        "run_attempt": shown.attempt,
        "event": "push",
        "head_branch": "main",
        "head_sha": shown.head_sha,
        "status": shown.status,
        "conclusion": shown.conclusion,
        "created_at": github_time(shown.created_at),
        "url": url,
        "jobs_url": f"{url}/jobs",
        "html_url": f"{addresses.web}/{repository.full_name}/actions/runs/{shown.id}",
        "repository": repository_fields(repository, addresses),
    }


def runner(shown: Runner) -> dict[str, Any]:
    return {
        "id": shown.id,
        "name": shown.name,
        "os": "linux" if shown.online else "unknown",
        "status": "online" if shown.online else "offline",
        "busy": shown.job_id is not None,
        "ephemeral": True,
        "runner_group_id": DEFAULT_GROUP_ID,
        "labels": [{"id": number, "name": label, "type": "custom"} for number, label in enumerate(shown.labels, 1)],
    }


def downloads(web_url: str) -> list[dict[str, str]]:
    return [
        {
            "os": "linux",
            "architecture": architecture,
            "download_url": f"{web_url}/_downloads/{jitconfig.download_name(architecture)}",
            "filename": jitconfig.download_name(architecture),
            "sha256_checksum": jitconfig.download_sha256(),
        }
        for architecture in jitconfig.ARCHITECTURES
    ]


def rate_limit(usages: dict[str, Usage]) -> dict[str, Any]:
    resources = {
        name: {"limit": usage.limit, "used": usage.used, "remaining": usage.remaining, "reset": usage.reset}
        for name, usage in usages.items()
    }
    return {"resources": resources, "rate": resources[CORE]}


def delivery(shown: Delivery) -> dict[str, Any]:
    return {
        "id": shown.id,
        "guid": shown.guid,
        "delivered_at": shown.delivered_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "redelivery": shown.redelivery,
        "duration": shown.duration_seconds,
        "status": shown.status,
        "status_code": shown.status_code,
        "event": shown.event,
        "action": shown.action,
        "installation_id": None,
        "repository_id": shown.repository_id,
        "throttled_at": None,
    }


def whole_delivery(shown: Delivery, hook: Hook) -> dict[str, Any]:
    return {
        **delivery(shown),
        "url": hook.url,
        "request": {"headers": shown.request_headers, "payload": msgspec.Raw(shown.body)},
        "response": {"headers": {}, "payload": shown.response_body},
    }
