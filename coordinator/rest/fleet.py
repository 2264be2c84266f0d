"""What there is: controller, providers, endpoints, repositories, pools, instances and jobs. Looking, not changing."""

import socket
from collections.abc import Iterable

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from coordinator.domain.fleet import Endpoint, Entity, Pool
from coordinator.domain.instance import Instance
from coordinator.http.errors import ApiError
from coordinator.rest import shapes
from coordinator.rest.shapes import (
    ControllerInfo,
    ForgeEndpoint,
    InstanceBody,
    JobBody,
    PoolBody,
    ProviderBody,
    Repository,
)
from coordinator.store.store import Store
from hostler import __version__


class Where(msgspec.Struct, frozen=True):
    """What the configuration says of this coordinator."""

    public_url: str
    metadata_url: str
    callback_url: str
    clouds: tuple[str, ...]  # names of configured providers


class Catalogue:
    """Everything declared, as of one request, with who belongs to whom."""

    def __init__(
        self, endpoints: Iterable[Endpoint], entities: Iterable[Entity], pools: Iterable[Pool], names: dict[str, str]
    ) -> None:
        """Args: names: of credentials, by id."""
        self.endpoints = {endpoint.id: endpoint for endpoint in endpoints}
        self.entities = {entity.id: entity for entity in entities}
        self.pools = {pool.id: pool for pool in pools}
        self._names = names

    def pool(self, pool: Pool, instances: Iterable[Instance]) -> PoolBody:
        entity = self.entities[pool.entity_id]
        mine = [shapes.instance_body(instance, pool) for instance in instances if instance.pool_id == pool.id]
        return shapes.pool_body(pool, entity, self.endpoints[entity.endpoint_id], mine)

    def repository(self, entity: Entity, instances: list[Instance]) -> Repository:
        mine = [self.pool(pool, instances) for pool in self.pools.values() if pool.entity_id == entity.id]
        endpoint = self.endpoints[entity.endpoint_id]
        return shapes.repository_body(entity, self._names[entity.credentials_id], endpoint, mine)


async def _catalogue(store: Store) -> Catalogue:
    # What refers to others is read first, so that those are there.
    pools = await store.catalog.pools()
    entities = await store.catalog.entities()
    names = {one.id: one.name for one in await store.catalog.credentials()}
    return Catalogue(await store.catalog.endpoints(), entities, pools, names)


def routes(store: Store, where: Where) -> list[HTTPRouteHandler]:
    return [*_controller(store, where), *_declared(store), *_pools(store), *_running(store)]


def _controller(store: Store, where: Where) -> list[HTTPRouteHandler]:
    @get("/controller-info", operation_id="ControllerInfo")
    async def controller_info() -> ControllerInfo:
        """This installation and the addresses by which it is called."""
        webhooks = f"{where.public_url.rstrip('/')}/webhooks"
        return ControllerInfo(
            controller_id=store.controller_id,
            hostname=socket.gethostname(),
            metadata_url=where.metadata_url,
            callback_url=where.callback_url,
            webhook_url=webhooks,
            controller_webhook_url=f"{webhooks}/{store.controller_id}",
            minimum_job_age_backoff=0,  # idle runners are subtracted from demand instead
            version=__version__,
        )

    @get("/providers", operation_id="ListProviders")
    async def list_providers() -> list[ProviderBody]:
        """Clouds as configured, and the drivers of the hosts that have come in."""
        drivers = sorted({driver for host in await store.hosts.all() for driver in host.drivers})
        clouds = [ProviderBody(name, "external", "a provider executable") for name in where.clouds]
        return [*clouds, *(ProviderBody(name, "internal", "a driver of build hosts") for name in drivers)]

    return [controller_info, list_providers]


def _declared(store: Store) -> list[HTTPRouteHandler]:
    @get("/github/endpoints", operation_id="ListGithubEndpoints")
    async def list_endpoints() -> list[ForgeEndpoint]:
        return [shapes.endpoint_body(endpoint) for endpoint in await store.catalog.endpoints()]

    @get("/github/endpoints/{name:str}", operation_id="GetGithubEndpoint")
    async def get_endpoint(name: FromPath[str]) -> ForgeEndpoint:
        found = [endpoint for endpoint in await store.catalog.endpoints() if endpoint.name == name]
        if not found:
            raise _none("endpoint", name)
        return shapes.endpoint_body(found[0])

    @get("/repositories", operation_id="ListRepos")
    async def list_repositories() -> list[Repository]:
        there, instances = await _catalogue(store), await store.instances.alive()
        return [there.repository(entity, instances) for entity in there.entities.values()]

    @get("/repositories/{repo_id:str}", operation_id="GetRepo")
    async def get_repository(repo_id: FromPath[str]) -> Repository:
        there, instances = await _catalogue(store), await store.instances.alive()
        return there.repository(_repository(there, repo_id), instances)

    @get("/repositories/{repo_id:str}/instances", operation_id="ListRepoInstances")
    async def list_repository_instances(repo_id: FromPath[str]) -> list[InstanceBody]:
        instances, there = await store.instances.alive(), await _catalogue(store)
        entity = _repository(there, repo_id)
        return [
            shapes.instance_body(instance, there.pools[instance.pool_id])
            for instance in instances
            if instance.entity_id == entity.id
        ]

    return [list_endpoints, get_endpoint, list_repositories, get_repository, list_repository_instances]


def _pools(store: Store) -> list[HTTPRouteHandler]:
    @get("/pools", operation_id="ListPools")
    async def list_pools() -> list[PoolBody]:
        there, instances = await _catalogue(store), await store.instances.alive()
        return [there.pool(pool, instances) for pool in there.pools.values()]

    @get("/pools/{pool_id:str}", operation_id="GetPool")
    async def get_pool(pool_id: FromPath[str]) -> PoolBody:
        there, instances = await _catalogue(store), await store.instances.alive()
        return there.pool(_pool(there, pool_id), instances)

    @get("/pools/{pool_id:str}/instances", operation_id="ListPoolInstances")
    async def list_pool_instances(pool_id: FromPath[str]) -> list[InstanceBody]:
        there, instances = await _catalogue(store), await store.instances.alive()
        return there.pool(_pool(there, pool_id), instances).instances

    @get("/repositories/{repo_id:str}/pools", operation_id="ListRepoPools")
    async def list_repository_pools(repo_id: FromPath[str]) -> list[PoolBody]:
        there, instances = await _catalogue(store), await store.instances.alive()
        return there.repository(_repository(there, repo_id), instances).pool

    @get("/repositories/{repo_id:str}/pools/{pool_id:str}", operation_id="GetRepoPool")
    async def get_repository_pool(repo_id: FromPath[str], pool_id: FromPath[str]) -> PoolBody:
        there, instances = await _catalogue(store), await store.instances.alive()
        pool = _pool(there, pool_id)
        if pool.entity_id != _repository(there, repo_id).id:
            raise _none("pool", pool_id)
        return there.pool(pool, instances)

    return [list_pools, get_pool, list_pool_instances, list_repository_pools, get_repository_pool]


def _running(store: Store) -> list[HTTPRouteHandler]:
    @get("/instances", operation_id="ListInstances")
    async def list_instances() -> list[InstanceBody]:
        instances, there = await store.instances.alive(), await _catalogue(store)
        return [shapes.instance_body(instance, there.pools[instance.pool_id]) for instance in instances]

    @get("/instances/{name:str}", operation_id="GetInstance")
    async def get_instance(name: FromPath[str]) -> InstanceBody:
        """One by its name, with what has happened to it so far; also one that is gone, for as long as it is kept."""
        instance = await store.history.instance(name)
        if instance is None:
            raise _none("instance", name)
        entries = await store.history.of_instance(instance.id)
        return shapes.instance_body(instance, await store.catalog.pool(instance.pool_id), entries)

    @get("/jobs", operation_id="ListJobs")
    async def list_jobs() -> list[JobBody]:
        """Those that are not completed, the oldest first."""
        jobs = await store.history.jobs(completed=False)
        entities = {entity.id: entity for entity in await store.catalog.entities()}
        return [shapes.job_body(job, entities) for job in jobs]

    return [list_instances, get_instance, list_jobs]


def _repository(there: Catalogue, repo_id: str) -> Entity:
    if repo_id not in there.entities:
        raise _none("repository", repo_id)
    return there.entities[repo_id]


def _pool(there: Catalogue, pool_id: str) -> Pool:
    if pool_id not in there.pools:
        raise _none("pool", pool_id)
    return there.pools[pool_id]


def _none(kind: str, name: str) -> ApiError:
    return ApiError(404, f"there is no {kind} '{name[:100]}'")
