"""Jobs, instances, pools and hosts with everything but what a test is about filled in."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, settings

from coordinator.domain.fleet import Endpoint, Entity, EntityKind, Flavor, ForgeKind, Host, Pool
from coordinator.domain.images import Image
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.domain.job import Job, JobEvent, JobKey, JobStatus
from coordinator.domain.labels import labels
from coordinator.domain.planning.board import Board
from coordinator.domain.resources import Resources
from coordinator.domain.world import Plan, World
from coordinator.store.catalog import ForgeAccess

NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SMALL: Final = Resources(2, 2048, 10)
REPOSITORY: Final = "entity-1"

# The machine's load is no property of what is tested.
calm: Final = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def job(number: int = 1, *names: str, **more: Any) -> Job:
    """A queued job; the higher its number, the younger."""
    values: dict[str, Any] = {
        "id": f"job-{number}",
        "key": JobKey("endpoint-1", number, 1, more.pop("entity_id", REPOSITORY)),
        "status": JobStatus.QUEUED,
        "labels": labels(names or ("linux",)),
        "name": "build",
        "workflow": "ci",
        "run_id": 1,
        "queued_at": NOW - timedelta(hours=1) + timedelta(seconds=number),
        "changed_at": NOW,
    }
    return Job(**values | more)


def event(status: JobStatus, number: int = 1, **more: Any) -> JobEvent:
    values: dict[str, Any] = {
        "key": JobKey("endpoint-1", number, 1, more.pop("entity_id", REPOSITORY)),
        "status": status,
        "labels": labels(["linux"]),
        "name": "build",
        "workflow": "ci",
        "run_id": 1,
        "received_at": NOW,
        "html_url": "https://forge.example/o/r/actions/runs/1/job/1",
    }
    return JobEvent(**values | more)


def pool(name: str = "small", **more: Any) -> Pool:
    values: dict[str, Any] = {
        "id": f"pool-{name}",
        "name": name,
        "entity_id": REPOSITORY,
        "provider": "libvirt",
        "image": "debian",
        "flavor": Flavor("small", more.pop("resources", SMALL)),
        "arch": "amd64",
        "os_type": "linux",
        "labels": labels(["linux"]),
        "max_runners": 5,
        "enabled": True,
        "priority": 0,
        "runner_prefix": "hostler",
        "runner_group": "",
        "bootstrap_timeout": timedelta(minutes=20),
    }
    return Pool(**values | more)


def forge_access() -> ForgeAccess:
    """Of the repository whose pools and instances these are."""
    endpoint = Endpoint("endpoint-1", "github", ForgeKind.GITHUB, "https://forge.example", "https://api.forge.example")
    entity = Entity(REPOSITORY, endpoint.id, EntityKind.REPOSITORY, "octo", "widgets", "credentials-1")
    return ForgeAccess(endpoint, entity, "a-forge-token")


def host(name: str = "host-1", **more: Any) -> Host:
    values: dict[str, Any] = {
        "name": name,
        "arch": "amd64",
        "capacity": Resources(16, 32768, 500),
        "drivers": {"libvirt": frozenset({"debian"})},
        "connected": True,
    }
    return Host(**values | more)


def instance(number: int = 1, **more: Any) -> Instance:
    """A machine whose create is planned."""
    values: dict[str, Any] = {
        "id": f"instance-{number}",
        "name": f"hostler-{number:012}",
        "pool_id": "pool-small",
        "entity_id": REPOSITORY,
        "provider": "libvirt",
        "host": "host-1",
        "image": "debian",
        "resources": SMALL,
        "labels": labels(["linux"]),
        "status": Status.PENDING_CREATE,
        "runner_status": RunnerStatus.PENDING,
        "generation": 1,
        "created_at": NOW,
        "changed_at": NOW,
        "bootstrap_deadline": NOW + timedelta(minutes=20),
    }
    return Instance(**values | more)


def idle(number: int = 1, **more: Any) -> Instance:
    """A machine whose runner has been waiting for a job since now."""
    fields = {"status": Status.RUNNING, "runner_status": RunnerStatus.IDLE, "idle_since": NOW}
    return instance(number, **fields | more)


def carried_out(board: Board, decided: Plan) -> Board:
    """The board told of the plan's creates, as when it is committed."""
    for number, create in enumerate(decided.creates, 10**6 + len(board.instances)):
        made = instance(
            number,
            pool_id=create.pool.id,
            entity_id=create.pool.entity_id,
            labels=create.pool.labels,
            provider=create.pool.provider,
            host=create.host,
            resources=create.pool.resources,
            for_job=create.for_job,
            pool_generation=create.pool.generation,
        )
        board.put_instance(made)
    return board


def world(
    jobs: tuple[Job, ...] = (),
    instances: tuple[Instance, ...] = (),
    pools: tuple[Pool, ...] | None = None,
    hosts: tuple[Host, ...] | None = None,
    clouds: dict[str, int] | None = None,
) -> World:
    """One pool and one host where a test says nothing else."""
    return World(
        jobs=jobs,
        instances=instances,
        pools=(pool(),) if pools is None else pools,
        hosts=(host(),) if hosts is None else hosts,
        clouds=clouds or {},
    )


def with_images(world: World, *images: Image) -> World:
    return msgspec.structs.replace(world, images=images)
