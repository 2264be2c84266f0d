"""An open store with a clock that a test moves and a declared repository; SQLite where no other URL is given."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from coordinator.declare import Declaration
from coordinator.declare_plan import Plan
from coordinator.domain import world
from coordinator.domain.fleet import Pool
from coordinator.domain.instance import Instance
from coordinator.domain.job import Job, JobEvent, JobKey, JobStatus
from coordinator.domain.labels import labels
from coordinator.domain.resources import Resources
from coordinator.store.hosts import HostRecord
from coordinator.store.rows import DriverInfo
from coordinator.store.store import Store, open_store
from hostler import config
from tests.samples.domain import NOW

FORGE_TOKEN: Final = "ghp_planted-forge-token-3141592653"
WEBHOOK_SECRET: Final = "planted-webhook-secret-2718281828"
DOCUMENT: Final = f"""
[[endpoint]]
name = "forge"
base_url = "https://forge.example"
api_base_url = "https://forge.example/api/v3"

[[credentials]]
name = "token"
endpoint = "forge"
token = "{FORGE_TOKEN}"

[[repository]]
endpoint = "forge"
owner = "Octo"
name = "Widgets"
credentials = "token"
webhook_secret = "{WEBHOOK_SECRET}"

[[flavor]]
name = "small"
vcpus = 2
memory_mib = 2048
disk_gib = 10

[[pool]]
name = "linux"
endpoint = "forge"
repository = "Octo/Widgets"
provider = "libvirt"
image = "debian"
flavor = "small"
labels = ["self-hosted", "linux"]
max_runners = 3
"""
TWIN: Final = """
[[repository]]
endpoint = "forge"
owner = "evil"
name = "twin"
credentials = "token"
webhook_secret = "another secret of them"
"""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def move(self, **amount: float) -> None:
        self.now += timedelta(**amount)


class Ids:
    """UUID-shaped, in order, never twice; of another `kind`, others."""

    def __init__(self, kind: int = 0) -> None:
        self._kind = kind
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return f"{self._kind:08x}-0000-4000-8000-{next(self._numbers):012x}"


class Sample:
    """The store with one repository, one pool and one host in it."""

    def __init__(self, store: Store, clock: Clock, directory: Path) -> None:
        self.store = store
        self.clock = clock
        self.directory = directory
        self.entity_id = ""
        self.endpoint_id = ""
        self.pool: Pool

    async def fill(self) -> None:
        """Plan and be connected to the host; the catalog is filled where it is empty."""
        await self.store.members.beat({})
        await self.apply(DOCUMENT)
        await self.look()
        await self.store.hosts.present(self.host(), 1, "agent")

    async def look(self) -> None:
        """At what is declared."""
        entity = (await self.store.catalog.entities())[0]
        self.entity_id, self.endpoint_id = entity.id, entity.endpoint_id
        self.pool = (await self.store.catalog.pools())[0]

    def host(self, name: str = "host-1") -> HostRecord:
        return HostRecord(
            name=name,
            arch="amd64",
            capacity=Resources(16, 32768, 500),
            drivers={"libvirt": DriverInfo("tcg", ["debian"])},
            agent_version="0",
            last_seen=self.clock(),
        )

    async def apply(self, document: str) -> list[str]:
        return (await self.plan(document)).lines

    async def plan(self, document: str, *, prune: bool = False, dry_run: bool = False) -> Plan:
        """Apply it, and see what was to do."""
        declared = config.parse(document, Declaration, "document")
        return await self.store.catalog.apply(declared, frozenset({"cloud"}), prune=prune, dry_run=dry_run)

    def event(self, status: JobStatus, number: int = 1, **more: str) -> JobEvent:
        return JobEvent(
            key=JobKey(self.endpoint_id, number, 1, more.get("entity_id", self.entity_id)),
            status=status,
            labels=labels(["linux"]),
            name="build",
            workflow="ci",
            run_id=1,
            received_at=self.clock(),
            runner_name=more.get("runner_name", ""),
            conclusion=more.get("conclusion", ""),
        )

    async def entity_of(self, owner: str) -> str:
        return next(entity.id for entity in await self.store.catalog.entities() if entity.owner == owner)

    async def queue(self, number: int = 1) -> Job:
        return await self.store.ledger.record(self.event(JobStatus.QUEUED, number))

    async def instance(self, number: int = 1) -> Instance:
        """One that is planned for a queued job."""
        job = await self.queue(number)
        made = await self.store.planning.commit(world.Plan(creates=(world.Create(self.pool, "host-1", job.id),)))
        assert len(made) == 1
        return made[0]

    async def now(self, instance: Instance) -> Instance:
        """The instance as it is in the database."""
        found = await self.store.instances.get(instance.id)
        assert found is not None
        return found


@asynccontextmanager
async def open_sample(directory: Path, url: str = "") -> AsyncIterator[Sample]:
    """The sample whose coordinator plans."""
    async with open_bare(directory, url) as sample:
        await sample.fill()
        yield sample


@asynccontextmanager
async def open_bare(directory: Path, url: str = "", kind: int = 0) -> AsyncIterator[Sample]:
    """A store that has done nothing yet; `kind`: of its ids, where several are on one database."""
    clock = Clock()
    url = url or f"sqlite:///{directory}/hostler.db"
    store = await open_store(url, directory, clock=clock, new_id=Ids(kind), chance=lambda: 0.0)
    try:
        yield Sample(store, clock, directory)
    finally:
        await store.close()
