"""The snapshot that the planner decides on, and the plan that it returns."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

import msgspec

from coordinator.domain.circuit import Circuit
from coordinator.domain.fleet import Entity, Host, Pool
from coordinator.domain.images import Image
from coordinator.domain.instance import Instance
from coordinator.domain.job import Job
from coordinator.domain.planning.waiting import JobClass, Place


class Policy(msgspec.Struct, frozen=True):
    """Settings of the planner."""

    starvation_bound: timedelta = timedelta(minutes=30)  # who waits longer goes before everybody, and has room kept
    idle_grace: timedelta = timedelta(minutes=2)  # a late webhook may be about to give an idle runner a job
    creates_per_host: int = 16  # machines that one host makes at once
    idle_trust: timedelta = timedelta(minutes=5)  # a runner idle beside a job for so long is not believed to take it
    host_grace: timedelta = timedelta(seconds=30)  # a host that is away for longer is not counted on
    host_lease: timedelta = timedelta(minutes=5)  # one that is away for longer is lost


class Budget(msgspec.Struct, frozen=True):
    """How many runners a forge lets one credential register now, and when it lets more."""

    calls: int
    refill_at: datetime


class Moment(msgspec.Struct, frozen=True):
    """What changes by itself: the time, what the forges' rate limits leave, and how providers do.

    Credentials not named have no limit, providers not named are called as usual.
    """

    now: datetime
    budgets: Mapping[str, Budget] = {}
    circuits: Mapping[str, Circuit] = {}


class World(msgspec.Struct, frozen=True):
    """Everything that a plan may depend on. Holds no secret."""

    jobs: tuple[Job, ...]  # queued ones
    instances: tuple[Instance, ...]  # all but deleted ones
    pools: tuple[Pool, ...]
    hosts: tuple[Host, ...]
    clouds: Mapping[str, int]  # configured cloud providers and how many instances each may be making at once
    entities: tuple[Entity, ...] = ()
    policy: Policy = Policy()
    images: tuple[Image, ...] = ()  # the catalogue


class Create(msgspec.Struct, frozen=True):
    pool: Pool
    host: str  # empty: the pool's provider is a cloud
    for_job: str  # whose demand caused it, empty for an idle runner to keep; any job it serves may get it


class Refusal(msgspec.Struct, frozen=True):
    """Why a pool makes no machine for a job now."""

    pool_id: str
    pool_name: str
    reason: str
    code: str = "no_room"  # the reason in a word that programs may count
    by_hosts: bool = False  # each host has a reason of its own, which is told when somebody asks


class Waits(msgspec.Struct, frozen=True):
    """Why no machine is coming for the jobs of a class."""

    first: Place  # of them in their class; those before it have machines coming
    job_class: JobClass
    code: str
    reason: str
    count: int = 1
    refusals: tuple[Refusal, ...] = ()  # of the pools that could make one
    kept: str = ""  # what is kept free for them

    @property
    def job_id(self) -> str:
        return self.first[1]


class Hold(msgspec.Struct, frozen=True):
    """What is kept free for a job that has waited too long: a place in the pool, in its quota, and on the host."""

    job_id: str
    since: datetime
    pool: Pool
    host: str  # empty: the pool's provider is a cloud


class Way(StrEnum):
    """How an instance goes."""

    ASKING = "asking"  # deregistered first, and kept when the forge says that it is busy; then destroyed
    LOST = "lost"  # the same, but that its row ends at once: its host is away
    ENDED = "ended"  # its row ends at once: its runner has gone before
    STOPPED = "stopped"  # destroyed, also when it is busy


class Retire(msgspec.Struct, frozen=True):
    """An instance that is not wanted any more."""

    instance_id: str
    reason: str
    failed: bool = False  # it came to nothing, and counts against its pool
    way: Way = Way.ASKING


class Plan(msgspec.Struct, frozen=True, dict=True):
    creates: tuple[Create, ...] = ()
    waits: tuple[Waits, ...] = ()
    retires: tuple[Retire, ...] = ()
    holds: tuple[Hold, ...] = ()
    drained: tuple[str, ...] = ()  # hosts that were to be emptied, and are empty
    wake_at: datetime | None = None  # when to plan again though nothing has happened

    @cached_property
    def waits_of(self) -> Mapping[JobClass, Waits]:
        return {wait.job_class: wait for wait in self.waits}
