"""A guard's post: the inspection, a real store, a simulated forge, a cloud of files; the test moves the clock."""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import aiohttp
from msgspec.structs import replace

from coordinator.domain.changes import Phase
from coordinator.domain.instance import Instance, RunnerStatus
from coordinator.domain.job import JobStatus
from coordinator.domain.world import Create, Plan
from coordinator.engine.budgets import Budgets
from coordinator.engine.inspection import Inspection
from coordinator.engine.registrar import Registrar
from coordinator.forges.forges import Forges
from coordinator.runner_api.waiting import Waiting
from coordinator.store.instances import PhaseFact
from providers.exec.provider import ExecProvider
from providers.exec.settings import ExecSettings
from tests.forge_simulator.records import ASKED_FOR, Job, Runner
from tests.forge_simulator.simulator import ForgeSimulator
from tests.samples.store import Sample, open_bare
from tests.simulation.declarations import LABELS, REPOSITORY, document, pool

FILE_CLOUD: Final = Path(__file__).parents[1] / "fixtures/providers/file-cloud"
FOREIGN: Final = "build-server-of-old"


class Post:
    def __init__(self, sample: Sample, forge: ForgeSimulator, session: aiohttp.ClientSession, directory: Path) -> None:
        self.sample = sample
        self.store = sample.store
        self.clock = sample.clock
        self.forge = forge
        self.cloud_pool_id = ""
        self.machines = directory / "machines"
        self.executable = directory / "provider"
        self._numbers = itertools.count(1)
        forges = Forges(self.store.catalog, session, self.clock)
        self.budgets = Budgets()
        self.registrar = Registrar(self.store, forges, Waiting(), self.budgets, self.clock, lambda: 0.0)
        settings = ExecSettings(
            name="cloud",
            executable=str(self.executable),
            config_file=str(directory / "cloud.toml"),
            environment=("PATH",),
            timeout_seconds=20,
        )
        clouds = {"cloud": ExecProvider(settings, self.store.controller_id)}
        self.inspection = Inspection(self.store, self.registrar, clouds, timedelta(minutes=5), self.clock)

    # --- what there is ---

    async def instance(self, *, cloud: bool = False, runner: bool = True, online: bool = True) -> Instance:
        """A machine that runs; with its runner registered and, unless it boots, up and idle."""
        pools = {one.name: one for one in await self.store.catalog.pools()}
        create = Create(pools["clouds" if cloud else "small"], "" if cloud else "host-1", "")
        (made,) = await self.store.planning.commit(Plan(creates=(create,)))
        if cloud:
            self.put_machine(made.name)
        if runner:
            await self.registrar.configure(made, create.pool)
        await self.store.instances.record_phase(PhaseFact(made.host, made.id, Phase.STARTED, self.clock()))
        if runner and online:
            self.put(replace(self.runner(made), online=True))
            await self.store.instances.runner_said(made.id, RunnerStatus.IDLE, "")
        return await self.sample.now(made)

    def put_machine(self, name: str, status: str = "running") -> None:
        """A machine in the cloud."""
        instance = {"provider_id": f"file-{name}", "name": name, "status": status}
        content = {"instance": instance, "pool_id": self.cloud_pool_id}
        (self.machines / f"{name}.json").write_text(json.dumps(content))

    def remove_machine(self, name: str) -> None:
        (self.machines / f"{name}.json").unlink()

    def in_cloud(self) -> list[str]:
        return sorted(path.stem for path in self.machines.glob("*.json"))

    def runner(self, instance: Instance) -> Runner:
        return next(runner for runner in self.forge.runners(REPOSITORY) if runner.name == instance.name)

    def put(self, runner: Runner) -> None:
        self.forge._forge.runners[runner.id] = runner

    def register(self, name: str, *, online: bool = False) -> Runner:
        """A runner that somebody else, or a lost answer, has registered."""
        ledger = self.forge._forge
        runner = ledger.add_runner(ledger.repository(REPOSITORY), name, LABELS, "_work")
        self.put(replace(runner, online=online))
        return runner

    def runners(self) -> list[str]:
        return sorted(runner.name for runner in self.forge.runners(REPOSITORY))

    async def begin_job(self, instance: Instance, *, told: bool) -> Job:
        """The runner takes a job; `told`: its webhooks come, else nobody hears of it."""
        job = self.forge.queue_job(REPOSITORY, LABELS, "true")
        job = self.forge._forge._start(job, self.runner(instance))
        if told:
            for status in (JobStatus.QUEUED, JobStatus.IN_PROGRESS):
                await self.store.ledger.record(self.sample.event(status, job.id, runner_name=instance.name))
        return job

    async def end(self, instance: Instance) -> None:
        """Its machine is destroyed; nobody has told the forge."""
        await self.store.instances.retire(instance.id, "a test")
        await self.store.instances.record_phase(PhaseFact(instance.host, instance.id, Phase.DELETED, self.clock()))

    # --- looking ---

    async def look(self, **later: float) -> None:
        """Look at the forge once, so much later."""
        self.clock.move(**later)
        await self.inspection.entity(self.sample.entity_id)

    async def look_at_cloud(self, **later: float) -> None:
        self.clock.move(**later)
        await self.inspection.pool(self.cloud_pool_id)

    async def now(self, instance: Instance) -> Instance:
        return await self.sample.now(instance)


@asynccontextmanager
async def guard_post(directory: Path) -> AsyncIterator[Post]:
    forge = ForgeSimulator()
    (directory / "machines").mkdir()
    (directory / "cloud.toml").write_text(f'directory = "{directory}/machines"\n')
    (directory / "provider").write_text(FILE_CLOUD.read_text())
    (directory / "provider").chmod(0o755)
    async with forge, aiohttp.ClientSession() as session, open_bare(directory) as sample:
        forge.add_repository(REPOSITORY)
        token = forge.add_token(REPOSITORY, permissions=ASKED_FOR).value
        await sample.store.members.beat({})
        await sample.apply(document(forge, token, pools=[pool(), pool("clouds", provider="cloud")]))
        await sample.look()
        await sample.store.hosts.present(sample.host(), 1, "agent")
        post = Post(sample, forge, session, directory)
        post.cloud_pool_id = next(one.id for one in await sample.store.catalog.pools() if one.name == "clouds")
        post.register(FOREIGN)
        yield post
        assert FOREIGN in post.runners()
