"""Webhook bodies built from the public example payloads in payloads/.

Put right here: every address is the simulator's own; repository, owner and sender are the simulated ones; a repository
webhook carries no `installation` and no `organization`; in `queued` and `waiting` all `runner_*` are null and there
are no steps (the example of `queued` has a runner, GitHub's own payloads have none).
"""

import functools
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tests.forge_simulator.records import DEFAULT_GROUP_ID, DEFAULT_GROUP_NAME, Hook, Job, Repository

Action = Literal["queued", "waiting", "in_progress", "completed"]

EXAMPLES: Final = Path(__file__).parent / "payloads"
_API: Final = "https://api.github.com"
_ELSEWHERE: Final = re.compile(r"(?:https?|git|ssh)://[\w.-]*github(?:usercontent)?\.com")


class Addresses(msgspec.Struct, frozen=True):
    """Where the simulator is reached: `web` for pages, `api` for REST; neither ends in a slash."""

    web: str
    api: str

    def repository(self, repository: Repository) -> str:
        return f"{self.api}/repos/{repository.full_name}"

    def job_page(self, repository: Repository, job: Job) -> str:
        return f"{self.web}/{repository.full_name}/actions/runs/{job.run_id}/job/{job.id}"


@functools.cache
def _examples(event: str) -> list[dict[str, Any]]:
    return msgspec.json.decode((EXAMPLES / f"{event}.json").read_bytes(), type=list[dict[str, Any]])


def _example(action: Action) -> dict[str, Any]:
    """Give the example of this action that has the most fields of a job and belongs to no deployment."""
    fitting = [body for body in _examples("workflow_job") if body["action"] == action and "deployment" not in body]
    return max(fitting, key=lambda body: len(body["workflow_job"]))


def _ping_example() -> dict[str, Any]:
    fitting = [body for body in _examples("ping") if "repository" in body]
    return max(fitting, key=lambda body: len(body["hook"]))


def workflow_job(action: Action, repository: Repository, job: Job, addresses: Addresses) -> dict[str, Any]:
    """Give the body of a `workflow_job` webhook of a repository hook."""
    example = _example(action)
    body = _at_home(example, example["repository"], repository, addresses)
    # The examples of some actions lack fields that others have: all that GitHub sends now are set.
    return {
        "action": action,
        "workflow_job": body["workflow_job"] | job_fields(repository, job, addresses),
        "repository": body["repository"],
        "sender": body["sender"],
    }


def ping(repository: Repository, hook: Hook, addresses: Addresses) -> dict[str, Any]:
    """Give the body that GitHub sends when a hook is made or pinged."""
    example = _ping_example()
    body = _at_home(example, example["repository"], repository, addresses)
    return {
        "zen": body["zen"],
        "hook_id": hook.id,
        "hook": hook_fields(repository, hook, addresses),
        "repository": body["repository"],
        "sender": body["sender"],
    }


def hook_fields(repository: Repository, hook: Hook, addresses: Addresses) -> dict[str, Any]:
    url = f"{addresses.repository(repository)}/hooks/{hook.id}"
    return {
        "type": "Repository",
        "id": hook.id,
        "name": "web",
        "active": hook.active,
        "events": list(hook.events),
        "config": {"content_type": "json", "insecure_ssl": "0", "url": hook.url, "secret": "********"},
        "updated_at": github_time(hook.created_at),
        "created_at": github_time(hook.created_at),
        "url": url,
        "test_url": f"{url}/test",
        "ping_url": f"{url}/pings",
        "deliveries_url": f"{url}/deliveries",
        "last_response": {"code": None, "status": "unused", "message": None},
    }


def job_fields(repository: Repository, job: Job, addresses: Addresses) -> dict[str, Any]:
    """Give a job as both the webhook and the REST interface show it."""
    api = addresses.repository(repository)
    ran = job.runner_id is not None
    return {
        "id": job.id,
        "run_id": job.run_id,
        "workflow_name": job.workflow_name,
        "head_branch": "main",
        "run_url": f"{api}/actions/runs/{job.run_id}",
        "run_attempt": job.run_attempt,
        "node_id": f"CR_{job.id}",
        "head_sha": job.head_sha,
        "url": f"{api}/actions/jobs/{job.id}",
        "html_url": addresses.job_page(repository, job),
        "status": job.status,
        "conclusion": job.conclusion,
        "created_at": github_time(job.created_at),
        "started_at": github_time(job.started_at or job.created_at),
        "completed_at": None if job.completed_at is None else github_time(job.completed_at),
        "name": job.name,
        "steps": _steps(job),
        "check_run_url": f"{api}/check-runs/{job.id}",
        "labels": list(job.labels),
        "runner_id": job.runner_id,
        "runner_name": job.runner_name,
        "runner_group_id": DEFAULT_GROUP_ID if ran else None,
        "runner_group_name": DEFAULT_GROUP_NAME if ran else None,
    }


def repository_fields(repository: Repository, addresses: Addresses) -> dict[str, Any]:
    example = _example("queued")["repository"]
    fields: dict[str, Any] = _at_home({"repository": example}, example, repository, addresses)["repository"]
    return fields


def github_time(moment: datetime) -> str:
    """GitHub gives whole seconds in UTC."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _steps(job: Job) -> list[dict[str, Any]]:
    if job.started_at is None or job.runner_id is None:
        return []
    started = github_time(job.started_at)
    done = None if job.completed_at is None else github_time(job.completed_at)

    def step(number: int, name: str, status: str, conclusion: str | None, completed_at: str | None) -> dict[str, Any]:
        return {
            "name": name,
            "status": status,
            "conclusion": conclusion,
            "number": number,
            "started_at": started if status != "queued" else None,
            "completed_at": completed_at,
        }

    if done is None:
        return [step(1, "Set up job", "in_progress", None, None), step(2, "Run script", "queued", None, None)]
    return [
        step(1, "Set up job", "completed", "success", started),
        step(2, "Run script", "completed", job.conclusion, done),
        step(3, "Complete job", "completed", "success", done),
    ]


def _at_home(body: dict[str, Any], old: dict[str, Any], repository: Repository, addresses: Addresses) -> dict[str, Any]:
    """Give a copy of an example that speaks of our repository, at our addresses."""
    old_owner = old["owner"]["login"]

    def text(value: str) -> str:
        if "github" not in value:
            return value
        if value.startswith("git@"):
            return f"git@{addresses.web.partition('://')[2]}:{repository.full_name}.git"
        value = value.replace(old["full_name"], repository.full_name)
        value = re.sub(rf"/(users|orgs)/{re.escape(old_owner)}\b", rf"/\1/{repository.owner}", value)
        value = re.sub(rf"(github\.com)/{re.escape(old_owner)}$", rf"\1/{repository.owner}", value)
        return _ELSEWHERE.sub(addresses.web, value.replace(_API, addresses.api))

    def walk(value: Any) -> Any:
        match value:
            case str():
                return text(value)
            case list():
                return [walk(item) for item in value]
            case dict():
                return {key: walk(item) for key, item in value.items()}
            case _:
                return value

    home = {key: walk(value) for key, value in body.items()}
    ours: dict[str, Any] = home["repository"]
    owner = {"login": repository.owner, "id": repository.owner_id, "node_id": f"U_{repository.owner_id}"}
    ours |= {
        "id": repository.id,
        "node_id": f"R_{repository.id}",
        "name": repository.name,
        "full_name": repository.full_name,
        "description": None,
        "private": True,
        "visibility": "private",
        "owner": ours["owner"] | owner | {"type": "User"},
    }
    return home | {"repository": ours}
