"""Large fleets for the planner's benchmark: hosts of two architectures, pools of many repositories, jobs of all."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Final, NamedTuple

import msgspec

from coordinator.domain.fleet import Flavor, Host, Pool
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.domain.job import Job, JobKey, JobStatus
from coordinator.domain.resources import Resources
from coordinator.domain.world import Create, Plan, World

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DRIVER: Final = "libvirt"
_POOLS_PER_REPOSITORY: Final = 5
_IMAGES: Final = 10
_FLAVORS: Final = (Resources(2, 4_096, 20), Resources(4, 8_192, 40), Resources(8, 16_384, 80))


class Size(NamedTuple):
    hosts: int
    pools: int
    jobs: int


def waiting(size: Size) -> World:
    """All jobs wait, all hosts are empty, and there is room for all."""
    pools = tuple(_pool(number) for number in range(size.pools))
    return World(
        jobs=tuple(_job(number, pool) for number, pool in zip(range(size.jobs), cycle(pools), strict=False)),
        instances=(),
        pools=pools,
        hosts=tuple(_host(number) for number in range(size.hosts)),
        clouds={},
    )


def placed(world: World, decided: Plan) -> World:
    """The plan carried out: every job runs, so nothing waits."""
    instances = tuple(_instance(number, create.pool, create.host) for number, create in enumerate(decided.creates))
    return msgspec.structs.replace(world, jobs=(), instances=instances)


def full(world: World, decided: Plan) -> World:
    """The plan carried out on hosts that have no room beside it, and as many jobs waiting as before."""
    busy = placed(world, decided)
    used: dict[str, Resources] = defaultdict(Resources)
    for instance in busy.instances:
        used[instance.host] += instance.resources
    hosts = tuple(msgspec.structs.replace(host, capacity=used[host.name]) for host in world.hosts)
    return msgspec.structs.replace(busy, hosts=hosts, jobs=world.jobs)


def coming(number: int, create: Create) -> Instance:
    """What a plan's create becomes when it is committed."""
    made = _instance(number, create.pool, create.host)
    pending = {"status": Status.PENDING_CREATE, "runner_status": RunnerStatus.PENDING}
    return msgspec.structs.replace(made, job_id="", for_job=create.for_job, **pending)


def extra_job(number: int, size: Size) -> Job:
    """A job of a pool that is another with each number."""
    return _job(10**6 + number, _pool(number * 7 % size.pools))


def _arch(number: int) -> str:
    return "arm64" if number % _POOLS_PER_REPOSITORY == 4 else "amd64"


def _host(number: int) -> Host:
    # Each host lacks one image, so that not all are alike.
    images = frozenset(f"image-{image}" for image in range(_IMAGES) if image != number % _IMAGES)
    return Host(
        name=f"host-{number:05}",
        arch=_arch(number),
        capacity=Resources(32, 131_072, 2_000),
        drivers={_DRIVER: images},
        connected=True,
    )


def _pool(number: int) -> Pool:
    repository, kind = divmod(number, _POOLS_PER_REPOSITORY)
    return Pool(
        id=f"pool-{number}",
        name=f"kind-{kind}",
        entity_id=f"entity-{repository}",
        provider=_DRIVER,
        image=f"image-{repository % _IMAGES}",
        flavor=Flavor("", _FLAVORS[number % len(_FLAVORS)]),
        arch=_arch(number),
        os_type="linux",
        labels=frozenset({"self-hosted", "linux", _arch(number), f"kind-{kind}"}),
        max_runners=10_000,
        enabled=True,
        priority=0,
        runner_prefix="hostler",
        runner_group="",
        bootstrap_timeout=timedelta(minutes=20),
    )


def _job(number: int, pool: Pool) -> Job:
    queued_at = NOW - timedelta(milliseconds=10**6 - number % 10**6)
    return Job(
        id=f"job-{number:07}",
        key=JobKey("endpoint", number, 1, pool.entity_id),
        status=JobStatus.QUEUED,
        labels=pool.labels,
        name="build",
        workflow="CI",
        run_id=number,
        queued_at=queued_at,
        changed_at=queued_at,
    )


def _instance(number: int, pool: Pool, host: str) -> Instance:
    return Instance(
        id=f"instance-{number:07}",
        name=f"hostler-{number:07}",
        pool_id=pool.id,
        entity_id=pool.entity_id,
        provider=pool.provider,
        host=host,
        image=pool.image,
        resources=pool.resources,
        labels=pool.labels,
        status=Status.RUNNING,
        runner_status=RunnerStatus.ACTIVE,
        generation=1,
        created_at=NOW,
        changed_at=NOW,
        bootstrap_deadline=NOW + pool.bootstrap_timeout,
        job_id=f"job-{number:07}",
    )
