"""Signed `workflow_job` deliveries as whole HTTP requests, made before anything is measured."""

import hashlib
import hmac
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from tests.bench.fleet import LABELS, SECRET
from tests.forge_simulator.records import Job, Repository, Status
from tests.forge_simulator.webhook_bodies import Addresses, workflow_job

FIRST_JOB: Final = 7_000_000_000_000
_RUN: Final = 6_000_000_000_000
_STAND_IN: Final = b"7999999999999"  # where a body's job id goes: of the length that all ids have


class Deliveries:
    """Bodies of full size, built from the public example payloads, of the jobs of one repository."""

    def __init__(self, forge_url: str, repository: str) -> None:
        owner, _, name = repository.partition("/")
        self._repository = Repository(id=1001, owner=owner, owner_id=1000, name=name)
        self._addresses = Addresses(web=forge_url, api=forge_url)
        self._queued = self._body("queued", int(_STAND_IN))

    def queued(self, job_id: int) -> bytes:
        return request(self._queued.replace(_STAND_IN, b"%d" % job_id))

    def in_progress(self, job_id: int, runner: str) -> bytes:
        return request(self._body("in_progress", job_id, runner))

    def completed(self, job_id: int, runner: str) -> bytes:
        return request(self._body("completed", job_id, runner))

    def without_demand(self) -> bytes:
        """Read, parsed and its signature checked, but of an action that says nothing of demand: not committed."""
        return request(self._queued.replace(b'"action":"queued"', b'"action":"seen"'))

    def _body(self, status: Status, job_id: int, runner: str | None = None) -> bytes:
        now = datetime.now(UTC)
        job = Job(
            id=job_id,
            run_id=_RUN,
            run_attempt=1,
            repository_id=self._repository.id,
            name="build",
            workflow_name="CI",
            labels=LABELS,
            script="",
            head_sha="f" * 40,
            status=status,
            created_at=now,
            conclusion="success" if status == "completed" else None,
            started_at=now if runner else None,
            completed_at=now if status == "completed" else None,
            runner_id=1 if runner else None,
            runner_name=runner,
        )
        assert status != "waiting" or runner is None
        return msgspec.json.encode(workflow_job(status, self._repository, job, self._addresses))


def queued_over(forge_url: str, repositories: list[str], first_job: int, count: int) -> list[bytes]:
    """Requests of distinct queued jobs, dealt over the repositories in turn."""
    deliveries = [Deliveries(forge_url, name) for name in repositories]
    return [deliveries[n % len(deliveries)].queued(first_job + n) for n in range(count)]


def request(body: bytes) -> bytes:
    """The delivery as GitHub sends it (GitHub docs, webhook delivery headers)."""
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return b"\r\n".join([*_head(len(body), signature), b"", body])


def _head(length: int, signature: str) -> Iterator[bytes]:
    yield b"POST /webhooks HTTP/1.1"
    yield b"Host: coordinator"
    yield b"Accept: */*"
    yield b"Content-Type: application/json"
    yield b"User-Agent: GitHub-Hookshot/5a1f0c7"
    yield b"X-GitHub-Delivery: " + str(uuid.uuid4()).encode()
    yield b"X-GitHub-Event: workflow_job"
    yield b"X-Hub-Signature-256: sha256=" + signature.encode()
    yield b"Content-Length: %d" % length
