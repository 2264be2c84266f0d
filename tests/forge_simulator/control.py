"""The control endpoint: what a demo or a test in another process drives the simulator with."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import msgspec
from aiohttp import web

from tests.forge_simulator.errors import SimulatorError, json_response
from tests.forge_simulator.faults import Faults, FaultSettings
from tests.forge_simulator.forge import Forge
from tests.forge_simulator.records import EVERYTHING, Conclusion, Hook, Job, Permissions, Repository, Status, Token
from tests.forge_simulator.webhook_bodies import Addresses

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.Response]]
LONGEST_WAIT_SECONDS = 60.0


class NewJobs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    repository: str
    labels: tuple[str, ...]
    script: str
    name: str = "build"
    count: int = 1
    run_id: int | None = None
    waiting: bool = False


class NewRepository(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    full_name: str
    token: str | None = None
    permissions: Permissions = msgspec.field(default_factory=lambda: dict(EVERYTHING))
    webhook_url: str | None = None
    webhook_secret: str = ""


class RepositoryView(msgspec.Struct, frozen=True, kw_only=True):
    repository: Repository
    token: Token
    hook: Hook | None


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its log; times to the microsecond, unlike GitHub's."""

    id: int
    run_id: int
    repository: str
    name: str
    labels: tuple[str, ...]
    status: Status
    conclusion: Conclusion | None
    runner_id: int | None
    runner_name: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    html_url: str
    log: str


class Control:
    def __init__(self, forge: Forge, faults: Faults, token: str, addresses: Callable[[], Addresses]) -> None:
        self._forge = forge
        self._faults = faults
        self._token = token
        self._addresses = addresses

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_control/repositories", self._allowed(self._add_repository)),
            web.get("/_control/jobs", self._allowed(self._list_jobs)),
            web.post("/_control/jobs", self._allowed(self._queue_jobs)),
            web.get("/_control/jobs/{job_id}", self._allowed(self._get_job)),
            web.post("/_control/jobs/{job_id}/cancel", self._allowed(self._cancel_job)),
            web.post("/_control/jobs/{job_id}/release", self._allowed(self._release_job)),
            web.get("/_control/faults", self._allowed(self._get_faults)),
            web.put("/_control/faults", self._allowed(self._set_faults)),
        ]

    def view(self, job: Job) -> JobView:
        repository = self._forge.repositories[job.repository_id]
        return JobView(
            id=job.id,
            run_id=job.run_id,
            repository=repository.full_name,
            name=job.name,
            labels=job.labels,
            status=job.status,
            conclusion=job.conclusion,
            runner_id=job.runner_id,
            runner_name=job.runner_name,
            created_at=job.created_at,
            started_at=job.started_at,
            completed_at=job.completed_at,
            html_url=self._addresses().job_page(repository, job),
            log=self._forge.log(job.id),
        )

    def _allowed(self, handler: Handler) -> Handler:
        """Let in only who holds the control token: jobs in guests reach this server too, and must not drive it."""

        async def answer(request: web.Request) -> web.Response:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return json_response({"error": "give the control token: `Authorization: Bearer TOKEN`"}, status=401)
            try:
                return await handler(request)
            except (SimulatorError, msgspec.DecodeError) as error:
                return json_response({"error": str(error)}, status=400)

        return answer

    async def _add_repository(self, request: web.Request) -> web.Response:
        wanted = await _read(request, NewRepository)
        repository = self._forge.add_repository(wanted.full_name)
        token = self._forge.add_token([wanted.full_name], wanted.permissions, wanted.token)
        hook = None
        if wanted.webhook_url is not None:
            hook = self._forge.add_hook(repository, wanted.webhook_url, wanted.webhook_secret, ("workflow_job",))
        return json_response(RepositoryView(repository=repository, token=token, hook=hook), status=201)

    async def _queue_jobs(self, request: web.Request) -> web.Response:
        wanted = await _read(request, NewJobs)
        if not 1 <= wanted.count <= 10_000:
            raise SimulatorError("`count` must be from 1 to 10000")
        repository = self._forge.repository(wanted.repository)
        names = [wanted.name] if wanted.count == 1 else [f"{wanted.name} {n}" for n in range(1, wanted.count + 1)]
        jobs = [
            self._forge.queue_job(
                repository, wanted.labels, wanted.script, name=name, run_id=wanted.run_id, waiting=wanted.waiting
            )
            for name in names
        ]
        return json_response({"jobs": [self.view(job) for job in jobs]}, status=201)

    async def _list_jobs(self, _request: web.Request) -> web.Response:
        return json_response({"jobs": [self.view(job) for job in self._forge.jobs.values()]})

    async def _get_job(self, request: web.Request) -> web.Response:
        """Show a job; `?wait_seconds=N` waits that long for its end."""
        job_id = _job_id(request)
        try:
            wait_seconds = min(float(request.query.get("wait_seconds", "0")), LONGEST_WAIT_SECONDS)
        except ValueError as error:
            raise SimulatorError("`wait_seconds` must be a number") from error
        try:
            job = await asyncio.wait_for(self._forge.wait_completed(job_id), wait_seconds)
        except TimeoutError:
            job = self._forge.job(job_id)
        return json_response(self.view(job))

    async def _cancel_job(self, request: web.Request) -> web.Response:
        return json_response(self.view(self._forge.cancel_job(_job_id(request))))

    async def _release_job(self, request: web.Request) -> web.Response:
        return json_response(self.view(self._forge.release_job(_job_id(request))))

    async def _get_faults(self, _request: web.Request) -> web.Response:
        return json_response(self._faults.settings)

    async def _set_faults(self, request: web.Request) -> web.Response:
        self._faults.set(await _read(request, FaultSettings))
        return json_response(self._faults.settings)


def _job_id(request: web.Request) -> int:
    text = request.match_info["job_id"]
    if not (text.isascii() and text.isdigit()):
        raise SimulatorError(f"{text!r} is no job id")
    return int(text)


async def _read(request: web.Request, shape: type[T]) -> T:
    return msgspec.json.decode(await request.read(), type=shape)
