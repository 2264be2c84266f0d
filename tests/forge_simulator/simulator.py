"""The whole simulator: the ledger and its three interfaces on one HTTP server, and the Python interface for tests."""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from aiohttp import web

from tests.forge_simulator.control import Control
from tests.forge_simulator.errors import SimulatorError
from tests.forge_simulator.faults import Faults, FaultSettings, RestFault, WebhookFaults
from tests.forge_simulator.forge import Forge
from tests.forge_simulator.ratelimit import RateLimits
from tests.forge_simulator.records import (
    EVERYTHING,
    Clock,
    Delivery,
    Hook,
    Job,
    Permissions,
    Repository,
    Runner,
    Token,
    utc_now,
)
from tests.forge_simulator.rest import Rest
from tests.forge_simulator.rest_actions import Actions
from tests.forge_simulator.rest_hooks import Hooks
from tests.forge_simulator.runner_api import RunnerApi
from tests.forge_simulator.statefile import StateFile
from tests.forge_simulator.webhook_bodies import Action, Addresses, ping, workflow_job
from tests.forge_simulator.webhooks import Sender

log = structlog.get_logger()


class ForgeSimulator:
    """A GitHub that behaves. `async with ForgeSimulator() as forge:` starts and stops it.

    `base_path` is where the REST interface is: empty as on api.github.com, `/api/v3` as on GitHub Enterprise Server.
    `public_url` is how others reach the server when that is not the address it binds to, as from inside a guest.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        base_path: str = "",
        public_url: str | None = None,
        runner_timeout: timedelta = timedelta(seconds=60),
        state_file: Path | None = None,
        clock: Clock = utc_now,
    ) -> None:
        if base_path and (not base_path.startswith("/") or base_path.endswith("/")):
            raise SimulatorError(f"base path {base_path!r}: give `/api/v3` or the like, or nothing")
        self.faults = Faults()
        self.rate_limits = RateLimits(clock)
        self._host, self._port = host, port
        self._base_path = base_path
        self._public_url = public_url.rstrip("/") if public_url else None
        self._state_file = StateFile(state_file) if state_file else None
        self._forge = Forge(clock=clock, runner_timeout=runner_timeout, announce=self._announce, changed=self._changed)
        enterprise = {"X-GitHub-Enterprise-Version": "3.17.0", "X-GitHub-Enterprise-Host": host} if base_path else {}
        self.webhooks = Sender(clock=clock, faults=self.faults, new_id=self._forge.new_id, headers=enterprise)
        self.control_token = secrets.token_urlsafe(24)
        self._runner: web.AppRunner | None = None
        self._change = asyncio.Event()

    # --- life ---

    async def start(self) -> None:
        if self._state_file is not None and (earlier := await self._state_file.read()) is not None:
            self.control_token = earlier.control_token
            self._forge.restore(earlier)
        application = web.Application(client_max_size=25 * 2**20)
        application.add_routes(Control(self._forge, self.faults, self.control_token, lambda: self.addresses).routes())
        application.add_routes(RunnerApi(self._forge).routes())
        application.add_routes(self._rest().routes(self._base_path))
        # A long poll whose client is gone must end at once, or a job would be handed into the void.
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self._port = self._runner.addresses[0][1]
        await self.webhooks.start()
        self._changed()
        await self.saved()

    async def stop(self) -> None:
        self._forge.close()
        await self.webhooks.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.saved()

    async def saved(self) -> None:
        """Wait until the state file, if there is one, is up to date."""
        if self._state_file is not None:
            await self._state_file.written()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- addresses ---

    @property
    def base_url(self) -> str:
        """The web address (github.com's place); never ends in a slash."""
        return self._public_url or f"http://{self._host}:{self._port}"

    @property
    def api_url(self) -> str:
        """The REST base URL, as a client's endpoint setting wants it."""
        return f"{self.base_url}{self._base_path}"

    @property
    def addresses(self) -> Addresses:
        return Addresses(web=self.base_url, api=self.api_url)

    # --- what a test sets up and does ---

    def add_repository(self, full_name: str) -> Repository:
        return self._forge.add_repository(full_name)

    def add_token(self, *repositories: str, permissions: Permissions = EVERYTHING, value: str | None = None) -> Token:
        return self._forge.add_token(repositories, permissions, value)

    def add_hook(self, repository: str, url: str, secret: str, events: tuple[str, ...] = ("workflow_job",)) -> Hook:
        """Add a webhook without the ping that making one through REST sends."""
        return self._forge.add_hook(self._forge.repository(repository), url, secret, events)

    def ping(self, hook: Hook) -> None:
        self.webhooks.send(hook, "ping", ping(self._forge.repositories[hook.repository_id], hook, self.addresses))

    def queue_job(
        self,
        repository: str,
        labels: Iterable[str],
        script: str,
        *,
        name: str = "build",
        run_id: int | None = None,
        waiting: bool = False,
    ) -> Job:
        """Queue a job. `run_id`: put it into that run instead of one of its own; `waiting`: behind a gate."""
        return self._forge.queue_job(
            self._forge.repository(repository), labels, script, name=name, run_id=run_id, waiting=waiting
        )

    def release_job(self, job_id: int) -> Job:
        return self._forge.release_job(job_id)

    def cancel_job(self, job_id: int) -> Job:
        return self._forge.cancel_job(job_id)

    def job(self, job_id: int) -> Job:
        return self._forge.job(job_id)

    def log(self, job_id: int) -> str:
        return self._forge.log(job_id)

    def runners(self, repository: str) -> list[Runner]:
        return self._forge.runners_of(self._forge.repository(repository).id)

    def deliveries(self, hook: Hook) -> list[Delivery]:
        return self.webhooks.deliveries(hook.id)

    async def wait_completed(self, job_id: int, *, timeout_seconds: float = 30.0) -> Job:
        async with asyncio.timeout(timeout_seconds):
            return await self._forge.wait_completed(job_id)

    async def wait_until(self, holds: Callable[[], bool], *, timeout_seconds: float = 30.0) -> None:
        """Wait until something holds of jobs, logs or runners; it is looked at after every change."""
        async with asyncio.timeout(timeout_seconds):
            while not holds():
                await self._change.wait()

    def set_faults(self, *rest: RestFault, webhooks: WebhookFaults | None = None, seed: int = 0) -> None:
        """Put these faults in force instead of the earlier ones; with none given, all is well again."""
        self.faults.set(FaultSettings(seed=seed, webhooks=webhooks or WebhookFaults(), rest=rest))

    # --- inside ---

    def _rest(self) -> Rest:
        actions = Actions(self._forge, lambda: self.addresses)
        hooks = Hooks(self._forge, self.webhooks, lambda: self.addresses)
        return Rest(self._forge, self.faults, self.rate_limits, actions, hooks)

    def _announce(self, action: Action, repository: Repository, job: Job) -> None:
        log.info("job", id=job.id, action=action, conclusion=job.conclusion, runner=job.runner_name)
        body = workflow_job(action, repository, job, self.addresses)
        for hook in self._forge.hooks_of(repository.id):
            self.webhooks.send(hook, "workflow_job", body)

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()
        if self._state_file is not None:
            self._state_file.write_soon(lambda: self._forge.snapshot(self.base_url, self.api_url, self.control_token))
