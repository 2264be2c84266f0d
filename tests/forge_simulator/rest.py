"""GitHub's REST interface for repositories: its routes, and what all calls share (tokens, limits, faults, errors)."""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from tests.forge_simulator import rest_bodies
from tests.forge_simulator.errors import ApiError, json_response
from tests.forge_simulator.faults import Faults, RestFault
from tests.forge_simulator.forge import Forge
from tests.forge_simulator.ratelimit import CORE, RUNNER_REGISTRATION, RateLimits
from tests.forge_simulator.records import Area, Level, Repository, Token
from tests.forge_simulator.rest_actions import Actions
from tests.forge_simulator.rest_hooks import Hooks

NOT_MODIFIED: Final = 304
Need = tuple[Area, Level]
# GitHub docs, permissions required for fine-grained personal access tokens.
_ADMINISTER: Final[Need] = ("administration", "write")
_LOOK: Final[Need] = ("administration", "read")
_JOBS: Final[Need] = ("actions", "read")
_HOOKS: Final[Need] = ("webhooks", "read")
_HOOK: Final[Need] = ("webhooks", "write")
_NAME: Final[Need] = ("metadata", "read")
Handler = Callable[[web.Request, Repository], Awaitable[web.Response]]


class Rest:
    """The routes under the base path; faults are switched on by the operations' names."""

    def __init__(self, forge: Forge, faults: Faults, limits: RateLimits, actions: Actions, hooks: Hooks) -> None:
        self._forge = forge
        self._faults = faults
        self._limits = limits
        self._actions = actions
        self._hooks = hooks

    def routes(self, base_path: str) -> list[web.RouteDef]:
        of_actions, of_hooks = self._actions, self._hooks
        repo = f"{base_path}/repos/{{owner}}/{{repo}}"
        runners, runs = f"{repo}/actions/runners", f"{repo}/actions/runs"
        hook, attempt_jobs = f"{repo}/hooks/{{hook_id}}", "{run_id}/attempts/{attempt}/jobs"
        table: list[tuple[str, str, str, Need, Handler]] = [
            ("POST", f"{runners}/generate-jitconfig", "generate-jitconfig", _ADMINISTER, of_actions.generate_jitconfig),
            ("POST", f"{runners}/registration-token", "registration-token", _ADMINISTER, of_actions.registration_token),
            ("GET", f"{runners}/downloads", "downloads", _LOOK, of_actions.downloads),
            ("GET", runners, "list-runners", _LOOK, of_actions.list_runners),
            ("GET", f"{runners}/{{runner_id}}", "get-runner", _LOOK, of_actions.get_runner),
            ("DELETE", f"{runners}/{{runner_id}}", "delete-runner", _ADMINISTER, of_actions.delete_runner),
            ("GET", f"{repo}/actions/jobs/{{job_id}}", "get-job", _JOBS, of_actions.get_job),
            ("GET", runs, "list-runs", _JOBS, of_actions.list_runs),
            ("GET", f"{runs}/{{run_id}}/jobs", "list-run-jobs", _JOBS, of_actions.list_run_jobs),
            ("GET", f"{runs}/{attempt_jobs}", "list-attempt-jobs", _JOBS, of_actions.list_run_jobs),
            ("GET", f"{repo}/hooks", "list-hooks", _HOOKS, of_hooks.list_hooks),
            ("POST", f"{repo}/hooks", "create-hook", _HOOK, of_hooks.create_hook),
            ("DELETE", hook, "delete-hook", _HOOK, of_hooks.delete_hook),
            ("POST", f"{hook}/pings", "ping-hook", _HOOK, of_hooks.ping_hook),
            ("GET", f"{hook}/deliveries", "list-deliveries", _HOOKS, of_hooks.list_deliveries),
            ("GET", f"{hook}/deliveries/{{delivery_id}}", "get-delivery", _HOOKS, of_hooks.get_delivery),
            ("POST", f"{hook}/deliveries/{{delivery_id}}/attempts", "redeliver", _HOOK, of_hooks.redeliver),
            ("GET", repo, "get-repository", _NAME, of_actions.get_repository),
        ]
        return [
            *(web.route(method, path, self._call(name, who, handler)) for method, path, name, who, handler in table),
            web.get(f"{base_path}/rate_limit", self._rate_limit),
            web.route("*", f"{base_path}/{{tail:.*}}", self._unknown),
        ]

    # --- what is common to all calls ---

    def _call(self, operation: str, need: Need, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        resource = RUNNER_REGISTRATION if operation == "generate-jitconfig" else CORE

        async def answer(request: web.Request) -> web.Response:
            headers: dict[str, str] = {}
            try:
                token = self._token(request)
                headers |= self._limits.count(token.user_id, resource)
                fault = self._faults.rest(operation)
                if fault is not None and not fault.after:
                    await strike(fault)
                response = tagged(request, await handler(request, self._repository(request, token, need)))
                if response.status == NOT_MODIFIED:
                    headers |= self._limits.uncount(token.user_id, resource)
                if fault is not None and fault.after:
                    await strike(fault)
            except ApiError as error:
                response = error.response()
            response.headers.extend({name: value for name, value in headers.items() if name not in response.headers})
            response.headers["X-GitHub-Request-Id"] = secrets.token_hex(10).upper()
            response.headers["X-GitHub-Media-Type"] = "github.v3; format=json"
            return response

        return answer

    def _token(self, request: web.Request) -> Token:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            raise ApiError(401, "Requires authentication")
        token = self._forge.tokens.get(value.strip())
        if scheme.lower() not in {"bearer", "token"} or token is None:
            raise ApiError(401, "Bad credentials")
        return token

    def _repository(self, request: web.Request, token: Token, need: Need) -> Repository:
        """Find the repository; one that the token may not see is not there at all, as at GitHub."""
        full_name = f"{request.match_info['owner']}/{request.match_info['repo']}".lower()
        seen = {name.lower() for name in token.repositories}
        for repository in self._forge.repositories.values():
            if repository.full_name.lower() == full_name and full_name in seen:
                break
        else:
            raise ApiError(404, "Not Found")
        area, level = need
        if not token.may(area, level):
            accepted = {"X-Accepted-GitHub-Permissions": f"{area}={level}"}
            raise ApiError(403, "Resource not accessible by personal access token", headers=accepted)
        return repository

    async def _unknown(self, _request: web.Request) -> web.Response:
        return ApiError(404, "Not Found").response()

    async def _rate_limit(self, request: web.Request) -> web.Response:
        try:
            token = self._token(request)
            if (fault := self._faults.rest("rate-limit")) is not None:
                await strike(fault)
        except ApiError as error:
            return error.response()
        usages = {name: self._limits.usage(token.user_id, name) for name in self._limits.limits}
        return json_response(rest_bodies.rate_limit(usages))


def tagged(request: web.Request, response: web.Response) -> web.Response:
    """Give an answer to GET its ETag, or 304 and nothing when the client has it already (GitHub's are weak)."""
    if request.method != "GET" or response.status != 200 or not isinstance(response.body, bytes):
        return response
    etag = f'W/"{hashlib.sha256(response.body).hexdigest()}"'
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=NOT_MODIFIED, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return response


async def strike(fault: RestFault) -> None:
    """Let a fault happen: be slow, never answer, or answer with an error."""
    await asyncio.sleep(fault.delay_seconds)
    if fault.hang:
        await asyncio.Event().wait()  # until the client gives up
    if fault.status is None:
        return
    headers = {} if fault.retry_after_seconds is None else {"Retry-After": str(fault.retry_after_seconds)}
    if fault.status == 401:
        raise ApiError(401, "Bad credentials")
    if fault.status in {403, 429}:
        message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
        raise ApiError(fault.status, message, page="overview/rate-limits-for-the-rest-api", headers=headers)
    raise ApiError(fault.status, "Server Error" if fault.status >= 500 else "Fault", headers=headers)
