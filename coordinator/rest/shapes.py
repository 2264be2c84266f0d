"""The bodies of what a fleet is made of, field for field as GARM's clients know them. `None` is left out.

Additions of ours are marked; clients of GARM pass them over.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from coordinator.accounts.chain import MASK, masked
from coordinator.accounts.roles import Role, acting
from coordinator.declare_entity import keys_of
from coordinator.domain.fleet import Entity, EntityKind, ForgeKind, Pool
from coordinator.domain.instance import Instance
from coordinator.domain.job import Job, JobStatus
from coordinator.domain.timeline import Entry
from coordinator.forges.usable import unusable
from coordinator.store.history import System
from coordinator.store.overview import KnownCredentials, KnownEndpoint, KnownEntity, KnownPool, Numbered

GROUP: Final = {"runner_group": "github-runner-group"}
"""What GARM calls it, which is no name in Python."""


class ForgeEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str
    base_url: str
    api_base_url: str
    upload_base_url: str
    endpoint_type: str
    created_at: datetime
    updated_at: datetime
    ca_cert_bundle: str | msgspec.UnsetType = msgspec.UNSET  # base64, as Go writes bytes
    tools_metadata_url: str | msgspec.UnsetType = msgspec.UNSET  # of a Gitea
    use_internal_tools_metadata: bool | msgspec.UnsetType = msgspec.UNSET  # of a Gitea


class ForgeCredentials(msgspec.Struct, frozen=True, rename={"auth_type": "auth-type"}):
    id: int
    name: str
    description: str
    base_url: str
    api_base_url: str
    upload_base_url: str
    auth_type: str
    forge_type: str
    endpoint: ForgeEndpoint
    repositories: list["Repository"]
    organizations: list["Organization"]
    enterprises: list["Enterprise"]
    created_at: datetime
    updated_at: datetime
    ca_bundle: str | msgspec.UnsetType = msgspec.UNSET


class PoolManagerStatus(msgspec.Struct, frozen=True):
    running: bool
    failure_reason: str | msgspec.UnsetType = msgspec.UNSET


class EntityBody(msgspec.Struct, frozen=True, kw_only=True):
    """What bodies of entities of every kind have."""

    id: str
    credentials_id: int
    credentials_name: str
    credentials: ForgeCredentials
    pool_balancing_type: str
    pool_manager_status: PoolManagerStatus
    endpoint: ForgeEndpoint
    pool: list["PoolBody"]
    created_at: datetime
    updated_at: datetime
    agent_mode: bool = False


class Repository(EntityBody, frozen=True, kw_only=True):
    owner: str
    name: str


class Organization(EntityBody, frozen=True, kw_only=True):
    name: str


class Enterprise(EntityBody, frozen=True, kw_only=True):
    name: str


class ForgeInstance(EntityBody, frozen=True, kw_only=True):
    pass


BODIES: Final[Mapping[EntityKind, type[EntityBody]]] = {
    EntityKind.REPOSITORY: Repository,
    EntityKind.ORGANIZATION: Organization,
    EntityKind.ENTERPRISE: Enterprise,
    EntityKind.INSTANCE: ForgeInstance,
}


LISTS: Final[Mapping[EntityKind, object]] = {
    EntityKind.REPOSITORY: list[Repository],
    EntityKind.ORGANIZATION: list[Organization],
    EntityKind.ENTERPRISE: list[Enterprise],
    EntityKind.INSTANCE: list[ForgeInstance],
}


class OwnerKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a pool, scale set or job is: those of its kind of entity alone are said."""

    repo_id: str | msgspec.UnsetType = msgspec.UNSET
    org_id: str | msgspec.UnsetType = msgspec.UNSET
    enterprise_id: str | msgspec.UnsetType = msgspec.UNSET
    forge_instance_id: str | msgspec.UnsetType = msgspec.UNSET


class OwnerNames(OwnerKeys, frozen=True, kw_only=True):
    repo_name: str | msgspec.UnsetType = msgspec.UNSET
    org_name: str | msgspec.UnsetType = msgspec.UNSET
    enterprise_name: str | msgspec.UnsetType = msgspec.UNSET


class Tag(msgspec.Struct, frozen=True):
    id: str
    name: str


class PoolBody(OwnerNames, frozen=True, kw_only=True, rename=GROUP):
    id: str
    provider_name: str
    image: str
    flavor: str
    os_type: str
    os_arch: str
    tags: list[Tag]
    enabled: bool
    max_runners: int
    min_idle_runners: int
    runner_prefix: str
    runner_group: str
    runner_bootstrap_timeout: int  # minutes
    priority: int
    generation: int
    extra_specs: dict[str, Any]
    template_id: int  # 0: none comes with Hostler for it
    template_name: str
    proxy_id: int  # 0: none
    proxy_name: str
    endpoint: ForgeEndpoint
    instances: list["InstanceBody"]
    created_at: datetime
    updated_at: datetime
    name: str  # an addition


class StatusMessage(msgspec.Struct, frozen=True):
    created_at: datetime
    message: str
    event_type: str
    event_level: str


class InstanceBody(msgspec.Struct, frozen=True, rename=GROUP):
    id: str
    name: str
    pool_id: str
    provider_name: str
    provider_id: str
    agent_id: int
    os_type: str
    os_arch: str
    os_name: str  # as the machine says; empty: it has not said it yet
    os_version: str
    status: str
    runner_status: str
    runner_group: str
    generation: int  # its pool's when it was made
    created_at: datetime
    updated_at: datetime
    status_messages: list[StatusMessage]
    host: str  # an addition; empty: it is in a cloud
    provider_fault: str | msgspec.UnsetType = msgspec.UNSET  # base64, as Go writes bytes


class JobBody(OwnerKeys, frozen=True, kw_only=True):
    id: int
    workflow_job_id: int
    run_id: int
    action: str
    status: str
    conclusion: str
    name: str
    labels: list[str]
    runner_name: str
    repository_owner: str
    repository_name: str
    workflow_run_url: str
    created_at: datetime
    updated_at: datetime
    job_id: str  # an addition: what `hostler job explain` takes
    completed_at: datetime | msgspec.UnsetType = msgspec.UNSET


def endpoint_body(known: KnownEndpoint) -> ForgeEndpoint:
    endpoint = known.endpoint
    is_gitea = endpoint.kind is ForgeKind.GITEA
    return ForgeEndpoint(
        name=endpoint.name,
        description=known.description,
        base_url=endpoint.base_url,
        api_base_url=endpoint.api_base_url,
        upload_base_url=known.upload_base_url,
        endpoint_type=endpoint.kind.value,
        created_at=known.times.created_at,
        updated_at=known.times.changed_at,
        ca_cert_bundle=go_bytes(endpoint.ca_bundle),
        tools_metadata_url=known.tools_metadata_url if is_gitea else msgspec.UNSET,
        use_internal_tools_metadata=known.use_internal_tools_metadata if is_gitea else msgspec.UNSET,
    )


def credentials_body(
    known: KnownCredentials, endpoint: KnownEndpoint, users: Sequence[EntityBody] = ()
) -> ForgeCredentials:
    return ForgeCredentials(
        id=known.number,
        name=known.name,
        description=known.description,
        base_url=endpoint.endpoint.base_url,
        api_base_url=endpoint.endpoint.api_base_url,
        upload_base_url=endpoint.upload_base_url,
        auth_type=known.auth.value,
        forge_type=endpoint.endpoint.kind.value,
        endpoint=endpoint_body(endpoint),
        repositories=[one for one in users if isinstance(one, Repository)],
        organizations=[one for one in users if isinstance(one, Organization)],
        enterprises=[one for one in users if isinstance(one, Enterprise)],
        ca_bundle=go_bytes(endpoint.endpoint.ca_bundle),
        created_at=known.times.created_at,
        updated_at=known.times.changed_at,
    )


def entity_body(
    known: KnownEntity, secret: KnownCredentials, endpoint: KnownEndpoint, pools: list[PoolBody]
) -> EntityBody:
    entity = known.entity
    called: dict[str, Any] = {} if entity.kind is EntityKind.INSTANCE else keys_of(entity.named)
    return BODIES[entity.kind](
        id=entity.id,
        credentials_id=secret.number,
        credentials_name=secret.name,
        credentials=credentials_body(secret, endpoint),
        pool_balancing_type=entity.balancer.value,
        pool_manager_status=_manager(unusable(endpoint.endpoint, entity, secret.auth)),
        endpoint=endpoint_body(endpoint),
        pool=pools,
        created_at=known.times.created_at,
        updated_at=known.times.changed_at,
        **called,
    )


def _manager(reason: str) -> PoolManagerStatus:
    return PoolManagerStatus(not reason, reason or msgspec.UNSET)


def owner_keys(entity: Entity) -> dict[str, str]:
    return {f"{_SHORT[entity.kind]}_id": entity.id}


def owner_names(entity: Entity) -> dict[str, str]:
    """A forge instance is said by its endpoint alone."""
    named = {} if entity.kind is EntityKind.INSTANCE else {f"{_SHORT[entity.kind]}_name": entity.full_name}
    return owner_keys(entity) | named


_SHORT: Final = {
    EntityKind.REPOSITORY: "repo",
    EntityKind.ORGANIZATION: "org",
    EntityKind.ENTERPRISE: "enterprise",
    EntityKind.INSTANCE: "forge_instance",
}


def seen_specs(extra_specs: str) -> dict[str, Any]:
    """As whoever asks may see them: to those who may only look, what is secret is not shown, nor are scripts."""
    found: dict[str, Any] = msgspec.json.decode(extra_specs)
    if acting.get().role.includes(Role.OPERATOR):
        return found
    hidden: dict[str, Any] = masked(found)
    return hidden | dict.fromkeys(_SCRIPTS & hidden.keys(), MASK)


_SCRIPTS: Final = frozenset({"runner_install_template", "pre_install_scripts"})


def pool_body(
    known: KnownPool,
    entity: Entity,
    endpoint: KnownEndpoint,
    template: Numbered,
    proxy: Numbered,
    instances: list[InstanceBody],
) -> PoolBody:
    pool = known.pool
    return PoolBody(
        id=pool.id,
        provider_name=pool.provider,
        image=pool.image,
        flavor=pool.flavor.name,
        os_type=pool.os_type,
        os_arch=pool.arch,
        tags=[Tag(label, label) for label in sorted(pool.labels)],
        enabled=pool.enabled,
        max_runners=pool.max_runners,
        min_idle_runners=pool.min_idle,
        runner_prefix=pool.runner_prefix,
        runner_group=pool.runner_group,
        runner_bootstrap_timeout=int(pool.bootstrap_timeout.total_seconds()) // 60,
        priority=pool.priority,
        generation=pool.generation,
        extra_specs=seen_specs(pool.extra_specs),
        template_id=template.number,
        template_name=template.name,
        proxy_id=proxy.number,
        proxy_name=proxy.name,
        endpoint=endpoint_body(endpoint),
        instances=instances,
        created_at=known.times.created_at,
        updated_at=known.times.changed_at,
        name=pool.name,
        **owner_names(entity),
    )


def instance_body(instance: Instance, pool: Pool, system: System, timeline: list[Entry] | None = None) -> InstanceBody:
    return InstanceBody(
        id=instance.id,
        name=instance.name,
        pool_id=instance.pool_id,
        provider_name=instance.provider,
        provider_id=instance.provider_id,
        agent_id=instance.forge_runner_id,
        os_type=pool.os_type,
        os_arch=pool.arch,
        os_name=system.name,
        os_version=system.version,
        status=instance.status.value,
        runner_status=instance.runner_status.value,
        runner_group=pool.runner_group,
        generation=instance.pool_generation,
        created_at=instance.created_at,
        updated_at=instance.changed_at,
        status_messages=[_message(entry) for entry in timeline or []],
        host=instance.host,
        provider_fault=go_bytes(instance.fault),
    )


def job_body(job: Job, entities: Mapping[str, Entity]) -> JobBody:
    entity = entities[job.entity_id]
    return JobBody(
        id=job.key.forge_job_id,
        workflow_job_id=job.key.forge_job_id,
        run_id=job.run_id,
        action=job.status.value,
        status=job.status.value,
        conclusion=job.conclusion,
        name=job.name,
        labels=sorted(job.labels),
        runner_name=job.runner_name,
        repository_owner=entity.owner,
        repository_name=entity.name,
        workflow_run_url=job.html_url,
        **owner_keys(entity),
        created_at=job.queued_at,
        updated_at=job.changed_at,
        job_id=job.id,
        completed_at=job.changed_at if job.status is JobStatus.COMPLETED else msgspec.UNSET,
    )


def go_bytes(text: str) -> str | msgspec.UnsetType:
    """In base64, as Go writes bytes; left out when empty."""
    return base64.b64encode(text.encode()).decode() if text else msgspec.UNSET


def _message(entry: Entry) -> StatusMessage:
    text = f"{entry.step.value}: {entry.detail}" if entry.detail else entry.step.value
    return StatusMessage(entry.at, text, "status", "info")
