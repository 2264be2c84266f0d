"""The protocol between the forge and the stand-in runner (`runner.sh`): plain text, made for a shell.

It is ours, not GitHub's. Every call carries the runner's own token; one that is not registered gets 401 and stops.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from aiohttp import web

from tests.forge_simulator import jitconfig
from tests.forge_simulator.errors import SimulatorError
from tests.forge_simulator.forge import Forge
from tests.forge_simulator.records import Job, Runner

LONGEST_POLL = timedelta(seconds=20)


class RunnerApi:
    def __init__(self, forge: Forge) -> None:
        self._forge = forge

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_runner/session", self._known(self._session)),
            web.get("/_runner/job", self._known(self._next_job), allow_head=False),
            web.post("/_runner/job/{job_id}/log", self._known(self._log)),
            web.post("/_runner/job/{job_id}/complete", self._known(self._complete)),
            web.get("/_downloads/{filename}", self._download),
        ]

    def _known(
        self, handler: Callable[[web.Request, Runner], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            for runner in self._forge.runners.values():
                if scheme.lower() == "bearer" and runner.token == token:
                    return await handler(request, runner)
            return web.Response(status=401, text="this runner is not registered\n")

        return answer

    async def _session(self, _request: web.Request, runner: Runner) -> web.Response:
        if runner.online:
            return web.Response(status=409, text="a session for this runner is open already\n")
        self._forge.runner_online(runner)
        return web.Response(text=f"session of {runner.name}\n")

    async def _next_job(self, _request: web.Request, runner: Runner) -> web.Response:
        if not runner.online:
            return web.Response(status=404, text="no session: open one first\n")
        self._forge.heard_from(runner)
        # Half the time-out: a runner that waits in a poll must not count as lost.
        job = await self._forge.next_job(runner, min(LONGEST_POLL, self._forge.runner_timeout / 2))
        if job is None:
            return web.Response(status=204)
        return web.Response(text=f"job {job.id}\n{job.script}")

    async def _log(self, request: web.Request, runner: Runner) -> web.Response:
        job = self._own_job(request, runner)
        self._forge.heard_from(runner)
        try:
            self._forge.append_log(job, int(request.query["offset"]), await request.read())
        except (KeyError, ValueError, SimulatorError) as error:
            return web.Response(status=400, text=f"`offset` must be where this piece begins in the log: {error}\n")
        return web.Response(text="ok\n")

    async def _complete(self, request: web.Request, runner: Runner) -> web.Response:
        job = self._own_job(request, runner)
        match request.query.get("result"):
            case "success":
                self._forge.complete_job(runner, job, "success")
            case "failure":
                self._forge.complete_job(runner, job, "failure")
            case other:
                return web.Response(status=400, text=f"`result` is success or failure, not {other}\n")
        return web.Response(text="ok\n")

    def _own_job(self, request: web.Request, runner: Runner) -> Job:
        if runner.job_id is None or request.match_info["job_id"] != str(runner.job_id):
            raise web.HTTPNotFound(text="this runner does not run that job\n")
        return self._forge.job(runner.job_id)

    async def _download(self, request: web.Request) -> web.Response:
        if request.match_info["filename"] not in map(jitconfig.download_name, jitconfig.ARCHITECTURES):
            raise web.HTTPNotFound(text="no such download\n")
        return web.Response(body=jitconfig.download(), content_type="application/gzip")
