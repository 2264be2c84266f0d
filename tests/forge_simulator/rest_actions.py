"""REST operations on a repository's Actions: runners, jobs and runs."""

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import msgspec
from aiohttp import web

from tests.forge_simulator import jitconfig, rest_bodies
from tests.forge_simulator.errors import ApiError, json_response
from tests.forge_simulator.forge import Forge
from tests.forge_simulator.records import DEFAULT_GROUP_ID, Repository, Runner
from tests.forge_simulator.rest_requests import number, paged, read_body
from tests.forge_simulator.webhook_bodies import Addresses, job_fields, repository_fields

RUNNER_PAGE: Final = "actions/self-hosted-runners"
JOB_PAGE: Final = "actions/workflow-jobs"
TOKEN_LIVES: Final = timedelta(hours=1)


class JitRequest(msgspec.Struct, frozen=True):
    name: str
    runner_group_id: int
    labels: list[str]
    work_folder: str = "_work"


class Actions:
    def __init__(self, forge: Forge, addresses: Callable[[], Addresses]) -> None:
        self._forge = forge
        self._addresses = addresses

    # --- runners ---

    async def generate_jitconfig(self, request: web.Request, repository: Repository) -> web.Response:
        page = f"{RUNNER_PAGE}#create-configuration-for-a-just-in-time-runner-for-a-repository"
        wanted = await read_body(request, JitRequest, page)
        if not 1 <= len(wanted.labels) <= 100:
            raise ApiError(422, "Invalid request.\n\nFor 'properties/labels', give 1 to 100 labels.", page=page)
        if wanted.runner_group_id != DEFAULT_GROUP_ID:
            raise ApiError(404, "Not Found", page=page)
        if any(runner.name == wanted.name for runner in self._forge.runners_of(repository.id)):
            raise ApiError(409, f"Already exists - A runner with the name {wanted.name} already exists.", page=page)
        runner = self._forge.add_runner(repository, wanted.name, tuple(wanted.labels), wanted.work_folder)
        body = {
            "runner": rest_bodies.runner(runner),
            "encoded_jit_config": jitconfig.encoded(runner, repository, self._addresses().web),
        }
        return json_response(body, status=201)

    async def registration_token(self, _request: web.Request, _repository: Repository) -> web.Response:
        expires = self._forge.clock() + TOKEN_LIVES
        return json_response({"token": secrets.token_hex(15).upper(), "expires_at": expires.isoformat()}, status=201)

    async def downloads(self, _request: web.Request, _repository: Repository) -> web.Response:
        return json_response(rest_bodies.downloads(self._addresses().web))

    async def list_runners(self, request: web.Request, repository: Repository) -> web.Response:
        name = request.query.get("name")
        found = [runner for runner in self._forge.runners_of(repository.id) if name is None or runner.name == name]
        shown, headers = paged(found, request, self._addresses().web)
        body = {"total_count": len(found), "runners": [rest_bodies.runner(runner) for runner in shown]}
        return json_response(body, headers=headers)

    def _runner(self, request: web.Request, repository: Repository) -> Runner:
        runner = self._forge.runners.get(number(request, "runner_id"))
        if runner is None or runner.repository_id != repository.id:
            raise ApiError(404, "Not Found", page=RUNNER_PAGE)
        return runner

    async def get_runner(self, request: web.Request, repository: Repository) -> web.Response:
        return json_response(rest_bodies.runner(self._runner(request, repository)))

    async def delete_runner(self, request: web.Request, repository: Repository) -> web.Response:
        runner = self._runner(request, repository)
        if runner.job_id is not None:
            page = f"{RUNNER_PAGE}#delete-a-self-hosted-runner-from-a-repository"
            raise ApiError(422, f'Bad request - Runner "{runner.name}" is still running a job', page=page)
        self._forge.remove_runner(runner.id)
        return web.Response(status=204)

    # --- jobs and runs ---

    async def get_job(self, request: web.Request, repository: Repository) -> web.Response:
        job = self._forge.jobs.get(number(request, "job_id"))
        if job is None or job.repository_id != repository.id:
            raise ApiError(404, "Not Found", page=JOB_PAGE)
        return json_response(job_fields(repository, job, self._addresses()))

    async def list_runs(self, request: web.Request, repository: Repository) -> web.Response:
        wanted = request.query.get("status")
        runs = rest_bodies.runs(self._forge.jobs_of(repository.id))
        found = [run for run in reversed(runs) if wanted is None or wanted in {run.status, run.conclusion}]
        shown, headers = paged(found, request, self._addresses().web)
        bodies = [rest_bodies.run(run, repository, self._addresses()) for run in shown]
        return json_response({"total_count": len(found), "workflow_runs": bodies}, headers=headers)

    async def list_run_jobs(self, request: web.Request, repository: Repository) -> web.Response:
        run_id = number(request, "run_id")
        attempt = number(request, "attempt") if "attempt" in request.match_info else None
        of_run = [job for job in self._forge.jobs_of(repository.id) if job.run_id == run_id]
        if not of_run:
            raise ApiError(404, "Not Found", page=JOB_PAGE)
        found = [job for job in of_run if attempt is None or job.run_attempt == attempt]
        shown, headers = paged(found, request, self._addresses().web)
        bodies = [job_fields(repository, job, self._addresses()) for job in shown]
        return json_response({"total_count": len(found), "jobs": bodies}, headers=headers)

    async def get_repository(self, _request: web.Request, repository: Repository) -> web.Response:
        return json_response(repository_fields(repository, self._addresses()))
