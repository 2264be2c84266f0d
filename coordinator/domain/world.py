"""The snapshot that the planner decides on, and the plan that it returns."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from coordinator.domain.fleet import Host, Pool
from coordinator.domain.instance import Instance
from coordinator.domain.job import Job


class World(msgspec.Struct, frozen=True):
    """Everything that a plan may depend on. Holds no secret."""

    jobs: tuple[Job, ...]  # queued ones
    instances: tuple[Instance, ...]  # all but deleted ones
    pools: tuple[Pool, ...]
    hosts: tuple[Host, ...]
    clouds: Mapping[str, int]  # configured cloud providers and how many instances each may be making at once


class Create(msgspec.Struct, frozen=True):
    pool: Pool
    host: str  # empty: the pool's provider is a cloud
    for_job: str  # whose demand caused it; any job it serves may get it


class Waits(msgspec.Struct, frozen=True):
    """Why no machine is coming for a job."""

    job_id: str
    code: str
    reason: str


class Retire(msgspec.Struct, frozen=True):
    """An instance that is not wanted any more; deregistered first, and kept when the forge says it is busy."""

    instance_id: str
    reason: str


class Plan(msgspec.Struct, frozen=True):
    creates: tuple[Create, ...] = ()
    waits: tuple[Waits, ...] = ()
    retires: tuple[Retire, ...] = ()
    wake_at: datetime | None = None  # when to plan again though nothing has happened
