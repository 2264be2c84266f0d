"""Between rows and the domain's values."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from coordinator.domain.fleet import (
    Admission,
    Balancer,
    Credentials,
    Endpoint,
    Entity,
    EntityKind,
    EntityName,
    Flavor,
    ForgeKind,
    Host,
    Placement,
    Pool,
)
from coordinator.domain.images import Held
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.domain.job import Job, JobKey, JobStatus
from coordinator.domain.resources import Resources
from coordinator.domain.timeline import Entry
from coordinator.store.schema import flavors, pools
from hostler.network import NetworkAccess, NetworkPolicy


class DriverInfo(msgspec.Struct, frozen=True):
    """One driver of a host, as kept in its row."""

    acceleration: str
    images: list[str]
    fetches: bool = False
    passes_devices: bool = False
    out: str = ""  # why it cannot be used now; empty when it can
    emulated: Mapping[str, list[str]] = {}  # architecture to images


Row = sa.Row[Any]


def to_job(row: Row) -> Job:
    return Job(
        id=row.id,
        key=JobKey(row.endpoint_id, row.forge_job_id, row.attempt, row.entity_id),
        status=JobStatus(row.status),
        labels=row.labels,
        name=row.name,
        workflow=row.workflow,
        run_id=row.run_id,
        queued_at=row.queued_at,
        changed_at=row.changed_at,
        runner_name=row.runner_name,
        instance_id=row.instance_id,
        conclusion=row.conclusion,
        html_url=row.html_url,
        tries=row.tries,
        retry_at=row.retry_at,
        fault=row.fault,
    )


def from_job(job: Job) -> dict[str, Any]:
    values = {name: getattr(job, name) for name in job.__struct_fields__ if name != "key"}
    return values | msgspec.structs.asdict(job.key)


def to_instance(row: Row) -> Instance:
    return Instance(
        id=row.id,
        name=row.name,
        pool_id=row.pool_id,
        entity_id=row.entity_id,
        provider=row.provider,
        host=row.host,
        image=row.image,
        resources=Resources(row.vcpus, row.memory_mib, row.disk_gib, row.devices),
        labels=row.labels,
        status=Status(row.status),
        runner_status=RunnerStatus(row.runner_status),
        generation=row.generation,
        created_at=row.created_at,
        changed_at=row.changed_at,
        bootstrap_deadline=row.bootstrap_deadline,
        idle_since=row.idle_since,
        job_id=row.job_id,
        provider_id=row.provider_id,
        forge_runner_id=row.forge_runner_id,
        fault=row.fault,
        pool_generation=row.pool_generation,
        for_job=row.for_job,
    )


def from_instance(instance: Instance) -> dict[str, Any]:
    values = {name: getattr(instance, name) for name in instance.__struct_fields__ if name != "resources"}
    return values | msgspec.structs.asdict(instance.resources)


def to_endpoint(row: Row, ca_bundle: str) -> Endpoint:
    return Endpoint(row.id, row.name, ForgeKind(row.kind), row.base_url, row.api_base_url, ca_bundle)


def entity_name(row: Row) -> EntityName:
    return EntityName(EntityKind(row.kind), row.owner, row.name)


def to_credentials(row: Row) -> Credentials:
    return Credentials(row.id, row.name, row.endpoint_id, row.registrations_per_minute)


def to_entity(row: Row) -> Entity:
    return Entity(
        id=row.id,
        endpoint_id=row.endpoint_id,
        kind=EntityKind(row.kind),
        owner=row.owner,
        name=row.name,
        credentials_id=row.credentials_id,
        weight=row.weight,
        quota=row.quota,
        priority=row.priority,
        label_priorities=msgspec.json.decode(row.label_priorities, type=dict[str, int]),
        balancer=Balancer(row.balancer),
    )


# A flavor is optional: a cloud knows its flavors itself.
POOL_QUERY = sa.select(pools, flavors.c.vcpus, flavors.c.memory_mib, flavors.c.disk_gib, flavors.c.devices).outerjoin(
    flavors, flavors.c.name == pools.c.flavor
)


def to_pool(row: Row) -> Pool:
    """From a row of POOL_QUERY."""
    return Pool(
        id=row.id,
        name=row.name,
        entity_id=row.entity_id,
        provider=row.provider,
        image=row.image,
        flavor=Flavor(row.flavor, Resources(row.vcpus or 0, row.memory_mib or 0, row.disk_gib or 0, row.devices)),
        arch=row.arch,
        os_type=row.os_type,
        labels=row.labels,
        max_runners=row.max_runners,
        enabled=row.enabled,
        priority=row.priority,
        runner_prefix=row.runner_prefix,
        runner_group=row.runner_group,
        bootstrap_timeout=timedelta(seconds=row.bootstrap_timeout_seconds),
        extra_specs=row.extra_specs,
        min_idle=row.min_idle,
        generation=row.generation,
        placement=Placement(row.placement),
        share_hosts=row.share_hosts,
        network=NetworkAccess(
            NetworkPolicy(row.network_policy), msgspec.json.decode(row.network_allow, type=tuple[str, ...])
        ),
        proxy_id=row.proxy_id or "",
        failures=row.failures,
        cool_until=row.cool_until,
        fault=row.fault,
    )


def to_host(row: Row, held: Held) -> Host:
    drivers = msgspec.json.decode(row.drivers, type=dict[str, DriverInfo])
    return Host(
        name=row.name,
        arch=row.arch,
        capacity=Resources(row.vcpus, row.memory_mib, row.disk_gib, row.devices),
        drivers={name: frozenset(info.images) for name, info in drivers.items() if not info.out},
        drivers_out={name: info.out for name, info in drivers.items() if info.out},
        fetches=frozenset(name for name, info in drivers.items() if info.fetches),
        passes=frozenset(name for name, info in drivers.items() if info.passes_devices),
        held=held,
        connected=row.coordinator != "",
        failures=row.failures,
        cool_until=row.cool_until,
        disconnected_at=row.disconnected_at,
        admission=Admission(row.admission),
        admission_reason=row.admission_reason,
        drain_deadline=row.drain_deadline,
        pressure=row.pressure,
        emulated={
            (name, arch): frozenset(images) for name, info in drivers.items() for arch, images in info.emulated.items()
        },
    )


def from_entry(entry: Entry) -> dict[str, Any]:
    return msgspec.structs.asdict(entry)
