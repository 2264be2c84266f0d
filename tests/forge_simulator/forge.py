"""The forge's ledger: who may do what, which runner takes which job, and what becomes of both. Knows no HTTP."""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from datetime import timedelta

from msgspec.structs import replace

from tests.forge_simulator.errors import SimulatorError
from tests.forge_simulator.records import (
    Clock,
    Conclusion,
    Hook,
    Job,
    Permissions,
    Repository,
    Runner,
    Snapshot,
    Token,
)
from tests.forge_simulator.webhook_bodies import Action

Announce = Callable[[Action, Repository, Job], None]


class Forge:
    """Repositories, tokens, hooks, runners and jobs.

    `announce` is called for each change that GitHub sends a webhook for; `changed` after every change at all.
    A runner that is silent for `runner_timeout` is lost: its job fails, or it goes offline when it has none.
    """

    def __init__(self, *, clock: Clock, runner_timeout: timedelta, announce: Announce, changed: Callable[[], None]):
        self.clock = clock
        self.runner_timeout = runner_timeout
        self._announce = announce
        self._changed = changed
        self._next_id = 1001
        self.repositories: dict[int, Repository] = {}
        self.tokens: dict[str, Token] = {}
        self.hooks: dict[int, Hook] = {}
        self.runners: dict[int, Runner] = {}
        self.jobs: dict[int, Job] = {}
        self._queued: set[int] = set()
        self._logs: dict[int, bytearray] = {}
        self._polls: dict[int, asyncio.Future[Job | None]] = {}
        self._watchdogs: dict[int, asyncio.TimerHandle] = {}
        self._finished: dict[int, asyncio.Event] = {}

    # --- what there is ---

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def repository(self, full_name: str) -> Repository:
        """Find a repository; names are compared without regard to case, as GitHub does."""
        for repository in self.repositories.values():
            if repository.full_name.lower() == full_name.lower():
                return repository
        known = ", ".join(repository.full_name for repository in self.repositories.values()) or "none yet"
        raise SimulatorError(f"no repository {full_name!r}: add it first (known: {known})")

    def job(self, job_id: int) -> Job:
        try:
            return self.jobs[job_id]
        except KeyError:
            raise SimulatorError(f"no job {job_id}") from None

    def log(self, job_id: int) -> str:
        self.job(job_id)
        return self._logs.get(job_id, bytearray()).decode(errors="replace")

    def hooks_of(self, repository_id: int) -> list[Hook]:
        return [hook for hook in self.hooks.values() if hook.repository_id == repository_id]

    def runners_of(self, repository_id: int) -> list[Runner]:
        return [runner for runner in self.runners.values() if runner.repository_id == repository_id]

    def jobs_of(self, repository_id: int) -> list[Job]:
        return [job for job in self.jobs.values() if job.repository_id == repository_id]

    # --- what people set up ---

    def add_repository(self, full_name: str) -> Repository:
        owner, slash, name = full_name.partition("/")
        if not (owner and slash and name) or "/" in name:
            raise SimulatorError(f"{full_name!r} is no repository name: give owner/name")
        if any(known.full_name.lower() == full_name.lower() for known in self.repositories.values()):
            raise SimulatorError(f"repository {full_name} exists already")
        owners = [known.owner_id for known in self.repositories.values() if known.owner.lower() == owner.lower()]
        repository = Repository(
            id=self.new_id(), owner=owner, owner_id=owners[0] if owners else self.new_id(), name=name
        )
        self.repositories[repository.id] = repository
        self._changed()
        return repository

    def add_token(self, repositories: Iterable[str], permissions: Permissions, value: str | None) -> Token:
        token = Token(
            value=value or f"github_pat_{secrets.token_urlsafe(24)}",
            user_id=self.new_id(),
            repositories=tuple(self.repository(name).full_name for name in repositories),
            permissions=permissions,
        )
        self.tokens[token.value] = token
        self._changed()
        return token

    def add_hook(self, repository: Repository, url: str, secret: str, events: tuple[str, ...]) -> Hook:
        hook = Hook(
            id=self.new_id(),
            repository_id=repository.id,
            url=url,
            secret=secret,
            events=events,
            created_at=self.clock(),
        )
        self.hooks[hook.id] = hook
        self._changed()
        return hook

    def remove_hook(self, hook: Hook) -> None:
        del self.hooks[hook.id]
        self._changed()

    # --- jobs ---

    def queue_job(
        self,
        repository: Repository,
        labels: Iterable[str],
        script: str,
        *,
        name: str,
        run_id: int | None,
        waiting: bool,
    ) -> Job:
        wanted = tuple(labels)
        if not wanted:
            raise SimulatorError("a job needs at least one label (`runs-on`)")
        job = Job(
            id=self.new_id(),
            run_id=run_id or self.new_id(),
            run_attempt=1,
            repository_id=repository.id,
            name=name,
            workflow_name="CI",
            labels=wanted,
            script=script,
            head_sha=secrets.token_hex(20),
            status="waiting" if waiting else "queued",
            created_at=self.clock(),
        )
        self._logs[job.id] = bytearray()
        self._finished[job.id] = asyncio.Event()
        self._put(job, "waiting" if waiting else "queued")
        self.dispatch()
        return job

    def release_job(self, job_id: int) -> Job:
        """Open the gate of a job that waits for its environment."""
        job = self.job(job_id)
        if job.status != "waiting":
            raise SimulatorError(f"job {job_id} is {job.status}: only a waiting job can be released")
        job = self._put(replace(job, status="queued"), "queued")
        self.dispatch()
        return job

    def cancel_job(self, job_id: int) -> Job:
        """Cancel a job. One that runs loses its runner at once: the runner is told with its next call."""
        job = self.job(job_id)
        if job.status == "completed":
            raise SimulatorError(f"job {job_id} is completed: it can no longer be cancelled")
        return self._complete(job, "cancelled")

    async def wait_completed(self, job_id: int) -> Job:
        """Wait until the job is completed; the caller sets the time limit."""
        self.job(job_id)
        await self._finished[job_id].wait()
        return self.job(job_id)

    def append_log(self, job: Job, offset: int, chunk: bytes) -> None:
        """Write a piece of log at its place, so that a piece sent twice is there once."""
        log = self._logs[job.id]
        if offset > len(log):
            raise SimulatorError(f"the log of job {job.id} has {len(log)} bytes: send it from there, not from {offset}")
        log[offset : offset + len(chunk)] = chunk
        self._changed()

    def complete_job(self, runner: Runner, job: Job, conclusion: Conclusion) -> Job:
        if runner.job_id != job.id:
            raise SimulatorError(f"runner {runner.name} does not run job {job.id}")
        return self._complete(job, conclusion)

    # --- runners ---

    def add_runner(self, repository: Repository, name: str, labels: tuple[str, ...], work_folder: str) -> Runner:
        runner = Runner(
            id=self.new_id(),
            name=name,
            repository_id=repository.id,
            labels=labels,
            work_folder=work_folder,
            token=secrets.token_urlsafe(32),
        )
        self.runners[runner.id] = runner
        self._changed()
        return runner

    def remove_runner(self, runner_id: int) -> None:
        del self.runners[runner_id]
        if (watchdog := self._watchdogs.pop(runner_id, None)) is not None:
            watchdog.cancel()
        if (poll := self._polls.pop(runner_id, None)) is not None and not poll.done():
            poll.set_result(None)
        self._changed()

    def runner_online(self, runner: Runner) -> Runner:
        """Open a runner's session."""
        runner = replace(runner, online=True)
        self.runners[runner.id] = runner
        self.heard_from(runner)
        self._changed()
        return runner

    def heard_from(self, runner: Runner) -> None:
        """Note a sign of life: the runner is given `runner_timeout` from now."""
        if (watchdog := self._watchdogs.get(runner.id)) is not None:
            watchdog.cancel()
        self._watchdogs[runner.id] = asyncio.get_running_loop().call_later(
            self.runner_timeout.total_seconds(), self._lose_runner, runner.id
        )

    async def next_job(self, runner: Runner, patience: timedelta) -> Job | None:
        """Wait for a job for this runner; None after `patience`, or when the runner is gone."""
        if runner.job_id is not None:
            return self.job(runner.job_id)  # the answer to an earlier call got lost
        if (earlier := self._polls.pop(runner.id, None)) is not None and not earlier.done():
            earlier.set_result(None)
        poll: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()
        self._polls[runner.id] = poll
        self.dispatch()
        try:
            return await asyncio.wait_for(poll, patience.total_seconds())
        except TimeoutError:
            return None
        finally:
            if self._polls.get(runner.id) is poll:
                del self._polls[runner.id]

    def dispatch(self) -> None:
        """Hand queued jobs, oldest first, to the polling runners that match."""
        for job_id in sorted(self._queued):
            job = self.jobs[job_id]
            for runner_id, poll in list(self._polls.items()):
                runner = self.runners[runner_id]
                free = runner.online and runner.job_id is None and not poll.done()
                if free and runner.repository_id == job.repository_id and runner.matches(job.labels):
                    poll.set_result(self._start(job, runner))
                    break

    # --- the state file ---

    def snapshot(self, base_url: str, api_url: str, control_token: str) -> Snapshot:
        return Snapshot(
            base_url=base_url,
            api_url=api_url,
            control_token=control_token,
            next_id=self._next_id,
            repositories=list(self.repositories.values()),
            tokens=list(self.tokens.values()),
            hooks=list(self.hooks.values()),
            runners=list(self.runners.values()),
            jobs=list(self.jobs.values()),
            logs={job_id: self.log(job_id) for job_id in self.jobs},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go on where an earlier process stopped; runners that were online have the time-out to call again."""
        self._next_id = snapshot.next_id
        self.repositories = {repository.id: repository for repository in snapshot.repositories}
        self.tokens = {token.value: token for token in snapshot.tokens}
        self.hooks = {hook.id: hook for hook in snapshot.hooks}
        self.runners = {runner.id: runner for runner in snapshot.runners}
        self.jobs = {job.id: job for job in snapshot.jobs}
        self._queued = {job.id for job in snapshot.jobs if job.status == "queued"}
        self._logs = {job_id: bytearray(log.encode()) for job_id, log in snapshot.logs.items()}
        for job in self.jobs.values():
            self._finished[job.id] = asyncio.Event()
            if job.status == "completed":
                self._finished[job.id].set()
        for runner in self.runners.values():
            if runner.online:
                self.heard_from(runner)

    def close(self) -> None:
        for watchdog in self._watchdogs.values():
            watchdog.cancel()
        for poll in self._polls.values():
            if not poll.done():
                poll.set_result(None)

    # --- transitions ---

    def _start(self, job: Job, runner: Runner) -> Job:
        self.runners[runner.id] = replace(runner, job_id=job.id)
        self.heard_from(runner)
        started = replace(
            job, status="in_progress", started_at=self.clock(), runner_id=runner.id, runner_name=runner.name
        )
        return self._put(started, "in_progress")

    def _complete(self, job: Job, conclusion: Conclusion) -> Job:
        done = replace(job, status="completed", conclusion=conclusion, completed_at=self.clock())
        if job.runner_id in self.runners:
            self.remove_runner(job.runner_id)  # ephemeral: one job, then the entry is gone
        self._put(done, "completed")
        self._finished[done.id].set()
        return done

    def _lose_runner(self, runner_id: int) -> None:
        runner = self.runners[runner_id]
        if runner.job_id is not None:
            self._complete(self.job(runner.job_id), "failure")
            return
        self.runners[runner_id] = replace(runner, online=False)
        del self._watchdogs[runner_id]
        self._changed()

    def _put(self, job: Job, action: Action) -> Job:
        self.jobs[job.id] = job
        if job.status == "queued":
            self._queued.add(job.id)
        else:
            self._queued.discard(job.id)
        self._changed()
        self._announce(action, self.repositories[job.repository_id], job)
        return job
