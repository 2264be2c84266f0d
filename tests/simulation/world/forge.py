"""The forge as a model: jobs, runners, webhooks, and the faults of its API. Behind `coordinator/forges/contract.py`."""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import msgspec

from coordinator.domain.labels import Labels, labels
from coordinator.forges.contract import (
    ForgeJob,
    ForgeRefused,
    ForgeRunner,
    ForgeUnavailable,
    OpenRuns,
    RunnerBusy,
    RunnerConfiguration,
    RunnerExists,
)
from providers.exec.spec import Tool
from tests.simulation.world.scenario import BASE_URL, JobSpec, Scenario

_TIMEOUT_SECONDS: Final = 30.0
FORGE_FAULTS: Final = ("401", "403", "429", "502", "time-out", "lost")


class Job:
    def __init__(self, number: int, spec: JobSpec, queued_at: float) -> None:
        self.id = number
        self.queued_at = queued_at
        self.spec = spec
        self.labels = labels(spec.labels)
        self.status = "queued"
        self.runner = ""
        self.conclusion = ""


class Runner:
    def __init__(self, number: int, name: str, entity: str, labels_: Labels) -> None:
        self.id = number
        self.name = name
        self.entity = entity
        self.labels = labels_
        self.online = False
        self.job: Job | None = None
        self.changed = asyncio.Event()  # a job has come, or it was removed
        self.removed = False


class Delivery(msgspec.Struct, frozen=True):
    """One webhook: what had happened to the job when it was sent."""

    action: str
    job_id: int
    entity: str
    labels: tuple[str, ...]
    runner: str
    conclusion: str


class ForgeModel:
    """What is true at the forge. Its API is `SimForge`."""

    def __init__(
        self,
        scenario: Scenario,
        emit: Callable[[Delivery], None],
        log: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.made_way = 0  # idle runners that were removed while a job waited beyond the starvation bound
        self.jobs: dict[int, Job] = {}
        self.runners: dict[int, Runner] = {}
        self.registrations: dict[str, list[float]] = {}  # by credentials: when runners were asked for
        self.forgetful = scenario.faults.kills > 0  # whoever calls may be killed and not know that it called
        self.asked_at: dict[str, tuple[list[float], float]] = {}  # by runner's name: the calls it is one of, and when
        self.budget_left = 1.0
        self._numbers = 0
        self._credentials = {one.name: one.credentials for one in scenario.repositories}
        self._emit = emit
        self._log = log
        self._clock = clock
        self._starvation_seconds = scenario.starvation_minutes * 60.0

    def credentials(self, entity: str) -> str:
        return self._credentials[entity]

    def queue(self, spec: JobSpec) -> Job:
        job = Job(len(self.jobs) + 1, spec, self._clock())
        self.jobs[job.id] = job
        self._tell(job)
        self.assign()
        return job

    def cancel(self, job: Job) -> None:
        if job.status == "queued":
            self._end(job, "cancelled")

    def register(self, name: str, entity: str, labels_: Labels) -> Runner:
        self._numbers += 1
        runner = self.runners[self._numbers] = Runner(self._numbers, name, entity, labels_)
        self._log(f"runner {name} registered as {runner.id}")
        return runner

    def forget_registration(self, name: str) -> None:
        """Nobody can know of it any more, so nobody can count it."""
        calls, asked_at = self.asked_at.get(name, ([], 0.0))
        if asked_at in calls:
            calls.remove(asked_at)

    def remove(self, runner: Runner) -> None:
        """Deregister it, as was asked."""
        if runner.online and runner.job is None and self._somebody_starves():
            self.made_way += 1
        self._drop(runner)

    def _drop(self, runner: Runner) -> None:
        self._log(f"runner {runner.name} removed")
        del self.runners[runner.id]
        runner.removed = True
        runner.changed.set()

    def connect(self, runner_id: int) -> Runner | None:
        """A runner program has come; None when it is not registered."""
        runner = self.runners.get(runner_id)
        if runner is not None:
            runner.online = True
            self._log(f"runner {runner.name} online")
            self.assign()
        return runner

    def _somebody_starves(self) -> bool:
        before = self._clock() - self._starvation_seconds
        return any(job.status == "queued" and job.queued_at <= before for job in self.jobs.values())

    def disconnect(self, runner: Runner) -> None:
        runner.online = False

    def assign(self) -> None:
        """Each queued job to an idle runner that has all its labels (GitHub: choosing the runner for a job)."""
        for job in self.jobs.values():
            if job.status != "queued":
                continue
            fit = [r for r in self.runners.values() if r.entity == job.spec.entity and job.labels <= r.labels]
            runner = next((r for r in fit if r.online and r.job is None), None)
            if runner is not None:
                job.status, job.runner, runner.job = "in_progress", runner.name, job
                runner.changed.set()
                self._tell(job)

    def complete(self, runner: Runner, conclusion: str) -> None:
        """Its job has ended, and a runner of one job ends with it."""
        if runner.job is not None and runner.job.status == "in_progress":
            self._end(runner.job, conclusion)
        if runner.id in self.runners:
            runner.job = None
            self._drop(runner)

    def _end(self, job: Job, conclusion: str) -> None:
        job.status, job.conclusion = "completed", conclusion
        self._tell(job)

    def _tell(self, job: Job) -> None:
        self._log(f"job {job.id} of {job.spec.entity} {job.status} {job.runner} {job.conclusion}".rstrip())
        spec = job.spec
        self._emit(Delivery(job.status, job.id, spec.entity, spec.labels, job.runner, job.conclusion))

    def runner_named(self, name: str, entity: str) -> Runner | None:
        return next((r for r in self.runners.values() if r.name == name and r.entity == entity), None)

    def busy(self, name: str) -> bool:
        """Whether a runner is there and runs a job."""
        return any(r.name == name and r.online and r.job is not None for r in self.runners.values())


class SimForge:
    """One entity's client, as the coordinator sees it. `faulty`: the chance that a call goes wrong, as it is now."""

    def __init__(
        self,
        model: ForgeModel,
        entity: str,
        chance: random.Random,
        faulty: Callable[[], float],
        accident: Callable[[str], None],
    ) -> None:
        self._model = model
        self._entity = entity
        self._chance = chance
        self._faulty = faulty
        self._accident = accident

    async def configure_runner(self, name: str, labels: Labels, group: str) -> RunnerConfiguration:
        asked_at = asyncio.get_running_loop().time()
        calls = self._model.registrations.setdefault(self._model.credentials(self._entity), [])
        if not self._model.forgetful:
            calls.append(asked_at)
        lost = await self._asked("generate-jitconfig")
        if self._model.runner_named(name, self._entity) is not None:
            raise RunnerExists(f"there is a runner {name} already")
        runner = self._model.register(name, self._entity, labels)
        if self._model.forgetful:
            calls.append(asked_at)
            self._model.asked_at[name] = (calls, asked_at)
        await self._answer(lost)
        content = str(runner.id).encode()
        return RunnerConfiguration(
            runner.id, {".runner": content, ".credentials": b"c", ".credentials_rsaparams": b"k"}
        )

    async def runner_named(self, name: str) -> ForgeRunner | None:
        lost = await self._asked("list runners")
        runner = self._model.runner_named(name, self._entity)
        await self._answer(lost)
        return None if runner is None else _listed(runner)

    async def runners(self) -> list[ForgeRunner]:
        lost = await self._asked("list runners")
        listed = [_listed(runner) for runner in self._model.runners.values() if runner.entity == self._entity]
        await self._answer(lost)
        return listed

    async def job(self, forge_job_id: int) -> ForgeJob | None:
        lost = await self._asked("a job")
        job = self._model.jobs.get(forge_job_id)
        shown = None if job is None or job.spec.entity != self._entity else _shown(job)
        await self._answer(lost)
        return shown

    async def open_runs(self) -> OpenRuns:
        lost = await self._asked("its runs")
        jobs = [job for job in self._model.jobs.values() if job.spec.entity == self._entity]
        await self._answer(lost)
        return OpenRuns(tuple(job.id for job in jobs if job.status != "completed"), self._model.budget_left)

    async def jobs_of_run(self, run_id: int) -> list[ForgeJob]:
        """Every job is a run of its own."""
        job = await self.job(run_id)
        return [] if job is None else [job]

    async def remove_runner(self, runner_id: int) -> None:
        lost = await self._asked("remove runner")
        runner = self._model.runners.get(runner_id)
        if runner is not None:
            if runner.job is not None:
                raise RunnerBusy(f"runner {runner_id} has a job")
            self._model.remove(runner)
        await self._answer(lost)

    async def tools(self) -> list[Tool]:
        await self._answer(await self._asked("downloads"))
        return [Tool("linux", "x64", "https://forge.example/runner.tar.gz", "runner.tar.gz")]

    async def _asked(self, what: str) -> bool:
        """The way to the forge and its first word; True when its answer will be lost after it has done what is asked.

        Raises:
            ForgeRefused, ForgeUnavailable: it did nothing.
        """
        await asyncio.sleep(self._chance.uniform(0.03, 0.4))
        if self._chance.random() >= self._faulty():
            return False
        fault = self._chance.choice(FORGE_FAULTS)
        self._accident(f"forge {fault}")
        if fault == "401":
            raise ForgeRefused(f"HTTP 401, asked for {what}")
        if fault == "time-out":
            await asyncio.sleep(_TIMEOUT_SECONDS)
        if fault in ("403", "429"):
            retry_after = timedelta(seconds=self._chance.randint(1, 90))
            raise ForgeUnavailable(f"HTTP {fault}, asked for {what}", retry_after=retry_after)
        if fault != "lost":
            raise ForgeUnavailable(f"HTTP {fault}, asked for {what}")
        return True

    async def _answer(self, lost: bool) -> None:
        await asyncio.sleep(self._chance.uniform(0.01, 0.2))
        if lost:
            await asyncio.sleep(_TIMEOUT_SECONDS)
            raise ForgeUnavailable("no answer")


def _shown(job: Job) -> ForgeJob:
    return ForgeJob(
        job.status,
        job.conclusion or None,
        job.runner or None,
        id=job.id,
        run_id=job.id,
        labels=list(job.spec.labels),
        name=f"job-{job.id}",
        html_url=f"{BASE_URL}/{job.spec.entity}/actions/runs/{job.id}/job/{job.id}",
    )


def _listed(runner: Runner) -> ForgeRunner:
    return ForgeRunner(runner.id, runner.name, "online" if runner.online else "offline", runner.job is not None)
