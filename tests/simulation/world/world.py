"""One run: the coordinator and the world around it, from the first job until nothing changes any more."""

import asyncio
import contextvars
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from coordinator import coordinator
from coordinator.config import CoordinatorConfig, DatabaseTable, Planner
from coordinator.declare import Declaration
from coordinator.forges.contract import Forge
from coordinator.http.webhooks import Webhooks
from coordinator.runner_api.routes import RunnerApi
from coordinator.store.catalog import ForgeAccess
from coordinator.store.store import open_store
from hostler import config
from providers.exec.settings import ExecSettings
from tests.simulation.world import quiet
from tests.simulation.world.accidents import plan_accidents
from tests.simulation.world.cloud import Cloud, SimClaims
from tests.simulation.world.forge import ForgeModel, SimForge
from tests.simulation.world.hosts import Host
from tests.simulation.world.life import CURRENT, DeadError, Life
from tests.simulation.world.loop import VirtualLoop
from tests.simulation.world.patches import simulated
from tests.simulation.world.rows import Rows
from tests.simulation.world.rules import Rules, Violation
from tests.simulation.world.scenario import CLOUD, Faults, Scenario, chances
from tests.simulation.world.webhooks import Deliveries

T = TypeVar("T")
_MEMORY: Final = Path("/dev/shm")
_NO_FAULTS: Final = Faults()
_STILL_SECONDS: Final = 2700.0  # longer than a job rests after too many failures
_SETTLED_SECONDS: Final = 180.0
_LONGEST_SECONDS: Final = 8 * 3600.0
_ORPHAN_GRACE: Final = timedelta(seconds=60)


class Result(msgspec.Struct, frozen=True):
    seed: int
    violations: tuple[Violation, ...]
    log: tuple[str, ...]
    machines: int
    lives: int
    seconds: float  # simulated
    accidents: dict[str, int]  # how often each has happened


class World:
    def __init__(self, scenario: Scenario, loop: VirtualLoop, directory: Path) -> None:
        self.scenario = scenario
        self.loop = loop
        self.lines: list[str] = []
        self.changed_at = 0.0  # when something happened last
        self.accidents: Counter[str] = Counter()
        self.life: Life | None = None
        self.parts: Any = None  # the coordinator put together, while it lives
        self.rules = Rules(self)
        self.deliveries = Deliveries(self)
        self.forge = ForgeModel(scenario, self.deliveries.emit, lambda what: self.log("forge", what), loop.time)
        self.hosts = {spec.name: Host(self, spec) for spec in scenario.hosts}
        self.cloud = Cloud(self)
        self.rows = Rows(directory / "hostler.db")
        self.lives = 0
        self._chance = chances("world", scenario.seed)
        self._forge_chance = chances("forge", scenario.seed)
        self._directory = directory
        self._ids = itertools.count(1)
        self._applied = False
        self._context = contextvars.copy_context()
        self._context.run(CURRENT.set, None)
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._failure: BaseException | None = None
        loop.on_task = _adopt

    # --- what everybody uses ---

    def now(self) -> datetime:
        return self.loop.now()

    def log(self, who: str, what: str) -> None:
        self.changed_at = self.loop.time()
        self.lines.append(f"{self.loop.time():12.4f} {who}: {what}")

    def accident(self, name: str) -> None:
        """One has happened: not planned alone, but with something there that it hits."""
        self.accidents[name] += 1

    def new_id(self) -> str:
        return f"00000000-0000-4000-8000-{next(self._ids):012x}"

    @property
    def faults(self) -> Faults:
        """What may go wrong now."""
        faults = self.scenario.faults
        return faults if self.loop.time() < faults.until else _NO_FAULTS

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run something that is no part of the coordinator."""
        task = self.loop.create_task(work, context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()

    async def ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call the coordinator, if it is up.

        Raises:
            DeadError: it is not, or is killed meanwhile.
        """
        if self.life is None or self.parts is None:
            raise DeadError
        return await self.life.call(call())

    def runner_api(self) -> RunnerApi:
        api: RunnerApi = self.parts.for_machines
        return api

    def webhooks(self) -> Webhooks:
        webhooks: Webhooks = self.parts.public
        return webhooks

    def client(self, _session: Any, access: ForgeAccess, *_: Any) -> Forge:
        of = access.entity.full_name
        return SimForge(self.forge, of, self._forge_chance, lambda: self.faults.forge_call, self.accident)

    def told(self, level: str, what: str) -> None:
        """By a logger of the coordinator."""
        self.log("coordinator", f"{level}: {what}")
        if level in {"error", "exception"} and not what.startswith("errand failed"):
            self.rules.broken("the coordinator does not fail", what)

    # --- the coordinator ---

    def _config(self) -> CoordinatorConfig:
        scenario = self.scenario
        cloud = ExecSettings(
            name=CLOUD,
            executable="/bin/true",
            config_file="/etc/hostname",
            timeout_seconds=300,
            max_concurrent=scenario.cloud_at_once,
            appear_seconds=scenario.appear_seconds,
        )
        return CoordinatorConfig(
            data_dir=str(self._directory),
            database=DatabaseTable(url=f"sqlite:///{self._directory}/hostler.db"),
            planner=Planner(starvation_minutes=scenario.starvation_minutes, creates_per_host=scenario.creates_per_host),
            provider=[cloud],
        )

    async def _coordinate(self) -> None:
        """Lives of the coordinator, one after the other."""
        kills, forgotten = self.scenario.faults.kills, self.scenario.faults.forgotten
        while True:
            dies_at = None
            if kills > 0 and self.loop.time() < self.scenario.faults.until:
                kills -= 1
                dies_at = (self._chance.randint(1, 120), self._chance.random() < 0.5)
            self.lives += 1
            self.life = life = Life(self.loop, self._chance, self.rules.committed, lambda: None, dies_at)
            self.log("coordinator", "starts")
            await self._live(life)
            self.parts = None
            if dies_at is not None and life.commits == dies_at[0]:  # the run's own end ends a life too
                self.accident("kills")
            self.log("coordinator", f"is killed at commit {life.commits}")
            await life.bury()
            if self.loop.time() < self.scenario.faults.until and forgotten > 0:
                row = self.rows.forget_one(self._chance)
                if row is not None:
                    forgotten -= 1
                    self.accident("forgotten")
                    self.log("database", f"has forgotten {row.name}")
                    self.rules.forget(row)
                    self.forge.forget_registration(row.name)
            await asyncio.sleep(self._chance.uniform(0.5, 30))

    async def _live(self, life: Life) -> None:
        try:
            await life.call(self._open())
        except DeadError:
            return
        await life.ended.wait()

    async def _open(self) -> None:
        settings = self._config()
        store = await open_store(
            settings.database_url,
            self._directory,
            clock=self.now,
            new_id=self.new_id,
            chance=self._chance.random,
        )
        if not self._applied:
            declared = config.parse(self.scenario.document(), Declaration, "document")
            await store.catalog.apply(declared, frozenset({CLOUD}))
            self._applied = True
        parts = coordinator._Parts(settings, store, None, self.now, _ORPHAN_GRACE, Path())  # type: ignore[arg-type]
        await parts.cluster.join()
        for endless in parts.endless():
            asyncio.create_task(endless).add_done_callback(self._engine_ended)
        self.parts = parts

    def _engine_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()

    # --- the run ---

    async def run(self) -> None:
        self.spawn(self._coordinate())
        for host in self.hosts.values():
            host.start()
        for spec in self.scenario.jobs:
            self.at(spec.time + 1.0, lambda spec=spec: self.forge.queue(spec))  # type: ignore[misc]
        plan_accidents(self, self._chance)
        await self._until_quiet()
        if not self.rules.violations:
            for rule, text in quiet.leftovers(self):
                self.rules.broken(rule, text)

    def at(self, seconds: float, do: Callable[[], object]) -> None:
        """Do something then that is no part of the coordinator."""
        self.loop.call_at(seconds, do, context=self._context.copy())

    def spare(self) -> None:
        """From now on all goes well."""
        self.log("world", "nothing goes wrong any more")
        if self.life is not None:
            self.life.spare()

    async def _until_quiet(self) -> None:
        last_job = self.scenario.jobs[-1].time if self.scenario.jobs else 0.0
        longest = last_job + _LONGEST_SECONDS
        while self.loop.time() < longest and not self.rules.violations:
            await asyncio.sleep(30)
            if self._failure is not None:
                raise self._failure
            self.rules.look_at_the_queue()
            still = self.loop.time() - self.changed_at
            over = max(self.scenario.faults.until, last_job + 2.0)
            if self.loop.time() < over or self.deliveries.pending:
                continue
            if still > _STILL_SECONDS:
                return
            if still > _SETTLED_SECONDS and not quiet.leftovers(self) and not quiet.unserved(self):
                return

    async def close(self) -> None:
        if self.life is not None:
            self.life.kill()
            await self.life.bury()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)
        self.rows.close()


def _adopt(task: "asyncio.Task[Any]", context: contextvars.Context) -> None:
    life = context.get(CURRENT)
    if life is not None:
        life.adopt(task)


def run(scenario: Scenario) -> Result:
    """One whole run. The same scenario gives the same result to the byte."""
    where = str(_MEMORY) if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as name:
        directory = Path(name)
        for file in Path(_template().name).iterdir():
            shutil.copy2(file, directory / file.name)
        loop = VirtualLoop()
        world = World(scenario, loop, directory)
        with simulated(
            scenario.seed,
            time=loop.time,
            client=world.client,
            run_process=world.cloud.run,
            claims_of=lambda _: SimClaims(world.cloud),
            tell=world.told,
        ):
            try:
                loop.run_until_complete(world.run())
            finally:
                loop.run_until_complete(world.close())
                loop.close()
    return Result(
        scenario.seed,
        tuple(world.rules.violations),
        tuple(world.lines),
        world.rules.made_count,
        world.lives,
        loop.time(),
        dict(sorted(world.accidents.items())),
    )


@cache
def _template() -> "tempfile.TemporaryDirectory[str]":
    """A database with all tables and a key, which every run begins with a copy of. Gone with this process."""
    made = tempfile.TemporaryDirectory(dir=str(_MEMORY) if _MEMORY.is_dir() else None)
    directory = Path(made.name)

    numbers = itertools.count()

    async def make() -> None:
        store = await open_store(
            f"sqlite:///{directory}/hostler.db",
            directory,
            clock=lambda: datetime.fromisoformat("2030-01-01T00:00:00+00:00"),
            new_id=lambda: f"00000000-0000-4000-8000-{next(numbers):012}",
            chance=lambda: 0.0,
        )
        await store.close()

    asyncio.run(make())
    return made
