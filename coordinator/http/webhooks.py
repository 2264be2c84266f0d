"""POST /webhooks: check size and signature over the raw body, parse, commit, and only then answer.

Facts: GitHub docs, webhook events and payloads (workflow_job) and validating webhook deliveries. What is answered to
events that are not for us follows GARM: 200, so that the forge's delivery log stays clean.
"""

import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
import structlog
from litestar import MediaType, Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from coordinator.domain.job import JobEvent, JobKey, JobStatus
from coordinator.domain.labels import labels
from coordinator.http.bodies import Bodies, announced
from coordinator.http.errors import AnyRequest, ApiError
from coordinator.store.catalog import Catalog, WebhookOwner
from coordinator.store.ledger import EntityGone, Ledger

log = structlog.get_logger()

_SIGNATURE: Final = "sha256="
_REASONS: Final = {401: "signature_invalid", 413: "too large", 503: "too many"}
_ACTIONS: Final = frozenset(status.value for status in JobStatus)


class _Owner(msgspec.Struct, frozen=True):
    login: str


class _Repository(msgspec.Struct, frozen=True):
    name: str
    owner: _Owner


# What the database's columns hold.
_Int64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Int32 = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _WorkflowJob(msgspec.Struct, frozen=True):
    id: _Int64
    run_id: _Int64
    html_url: str
    labels: list[str]
    run_attempt: _Int32 = 1
    name: str = ""
    workflow_name: str | None = None
    conclusion: str | None = None
    runner_name: str | None = None


class WorkflowJobPayload(msgspec.Struct, frozen=True):
    """What is needed of a `workflow_job` event; everything else is skipped unread."""

    action: str
    workflow_job: _WorkflowJob
    repository: _Repository


_decoder: Final = msgspec.json.Decoder(WorkflowJobPayload)


def signed_by(secret: bytes, body: bytes | bytearray, header: str) -> bool:
    """Whether `X-Hub-Signature-256` is the HMAC-SHA256 of the body. Constant time; SHA-1 is not accepted."""
    if not header.startswith(_SIGNATURE):
        return False
    expected = hmac.digest(secret, body, "sha256").hex()
    return hmac.compare_digest(expected.encode(), header[len(_SIGNATURE) :].encode("utf-8", "replace"))


def parse(body: bytes | bytearray) -> WorkflowJobPayload:
    """Raises ApiError 400: not JSON, or not a workflow_job event."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is no workflow_job event: {error}") from None


def to_event(payload: WorkflowJobPayload, owner: WebhookOwner, received_at: datetime) -> JobEvent | None:
    """The event for the ledger; None for an action that says nothing of demand."""
    job = payload.workflow_job
    if payload.action not in _ACTIONS or not job.labels:
        return None
    status = JobStatus(payload.action)
    # Seen in examples of GitHub's own: a queued job that names a runner. No runner has it yet.
    begun = status in (JobStatus.IN_PROGRESS, JobStatus.COMPLETED)
    return JobEvent(
        key=JobKey(owner.entity.endpoint_id, job.id, job.run_attempt, owner.entity.id),
        status=status,
        labels=labels(job.labels),
        name=job.name,
        workflow=job.workflow_name or "",
        run_id=job.run_id,
        received_at=received_at,
        runner_name=(job.runner_name or "") if begun else "",
        conclusion=job.conclusion or "",
        html_url=job.html_url,
    )


class Webhooks:
    def __init__(self, catalog: Catalog, ledger: Ledger, controller_id: str, clock: Callable[[], datetime]) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._controller_id = controller_id
        self._clock = clock
        self._bodies = Bodies()
        self.on_received: Callable[[bool, str], None] = lambda _valid, _reason: None

    async def receive(self, request: AnyRequest) -> Response[bytes]:
        """Take one delivery.

        Raises:
            ApiError: 413 too large, 400 not a job event, 401 not signed with the repository's secret, 503 too much now.
        """
        try:
            return await self._receive(request)
        except ApiError as error:
            self.on_received(False, _REASONS.get(error.status, "unusable"))
            raise

    async def _receive(self, request: AnyRequest) -> Response[bytes]:
        received_at = self._clock()
        length = announced(request)
        event = request.headers.get("x-github-event", "")
        if event != "workflow_job":
            log.debug("webhook ignored, unread", github_event=event)
            self.on_received(True, "other event")
            return _taken()
        async with self._bodies.read(request, length) as body:
            job_event = await self._event(body, request.headers.get("x-hub-signature-256", ""), received_at)
        self.on_received(True, "")
        if job_event is not None:
            try:
                await self._ledger.record(job_event)
            except EntityGone as error:
                log.info("webhook of a repository that was removed", reason=str(error))
        return _taken()

    async def _event(self, body: bytes | bytearray, signature: str, received_at: datetime) -> JobEvent | None:
        """What a signed body says; None when that is nothing, or of a repository that nobody has declared."""
        payload = parse(body)
        owner = await self._owner(payload)
        if owner is None:
            return None
        if not signed_by(owner.secret, body, signature):
            raise ApiError(401, "X-Hub-Signature-256 is missing or not the HMAC of the body with the webhook secret")
        return to_event(payload, owner, received_at)

    async def _owner(self, payload: WorkflowJobPayload) -> WebhookOwner | None:
        """Whose event it claims to be; the signature then proves it."""
        try:
            parts = urlsplit(payload.workflow_job.html_url)
        except ValueError:
            raise ApiError(400, "workflow_job.html_url is not an address") from None
        repository = payload.repository
        owner = await self._catalog.repository(
            f"{parts.scheme}://{parts.netloc}", repository.owner.login, repository.name
        )
        if owner is None:
            log.info("webhook of an unknown repository", repository=f"{repository.owner.login}/{repository.name}")
        return owner

    def routes(self) -> list[HTTPRouteHandler]:
        @post("/webhooks", status_code=200, include_in_schema=False)
        async def webhook(request: AnyRequest) -> Response[bytes]:
            return await self.receive(request)

        @post("/webhooks/{controller_id:str}", status_code=200, include_in_schema=False)
        async def webhook_of_controller(request: AnyRequest, controller_id: FromPath[str]) -> Response[bytes]:
            if controller_id != self._controller_id:
                return _taken()
            return await self.receive(request)

        return [webhook, webhook_of_controller]


def _taken() -> Response[bytes]:
    """200 and nothing else, as GARM answers whether the event was of use or not."""
    return Response(b"", status_code=200, media_type=MediaType.TEXT)
