"""What there is and what runs: controller, providers, instances and jobs."""

import base64
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from litestar import delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from coordinator.accounts.roles import Role
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.forges.contract import ForgeError
from coordinator.http.errors import AnyRequest, ApiError
from coordinator.rest import shapes
from coordinator.rest.guard import needs
from coordinator.rest.params import UpdateControllerParams
from coordinator.rest.shapes import InstanceBody, JobBody
from coordinator.rest.view import declared, none, view
from coordinator.rest.webhooks import Addresses
from coordinator.store.store import Store
from hostler import __version__


class ControllerInfo(msgspec.Struct, frozen=True):
    controller_id: str
    hostname: str
    metadata_url: str
    callback_url: str
    webhook_url: str
    controller_webhook_url: str
    minimum_job_age_backoff: int
    version: str
    ca_cert_bundle: str | msgspec.UnsetType = msgspec.UNSET  # base64, as Go writes bytes


class ProviderBody(msgspec.Struct, frozen=True):
    name: str
    type: str
    description: str


class Where(msgspec.Struct, frozen=True):
    """What the configuration says of this coordinator."""

    public_url: str
    metadata_url: str
    callback_url: str
    clouds: tuple[str, ...]  # names of configured providers


async def webhook_addresses(store: Store, where: Where) -> Addresses:
    """As people have set them, or as configured."""
    said = await store.settings.get()
    direct = said.webhook_url or f"{where.public_url.rstrip('/')}/webhooks"
    return Addresses(direct, f"{direct}/{store.controller_id}")


MayGo = Callable[[Instance], Awaitable[bool]]
"""Deregisters an instance's runner; False when the forge says that it is busy. Raises ForgeError."""


def routes(store: Store, where: Where, may_go: MayGo) -> list[HTTPRouteHandler]:
    return [*_controller(store, where), *_instances(store, may_go), *_jobs(store)]


async def controller_info(store: Store, where: Where) -> ControllerInfo:
    said = await store.settings.get()
    webhooks = await webhook_addresses(store, where)
    return ControllerInfo(
        controller_id=store.controller_id,
        hostname=socket.gethostname(),
        metadata_url=said.metadata_url or where.metadata_url,
        callback_url=said.callback_url or where.callback_url,
        webhook_url=webhooks.direct,
        controller_webhook_url=webhooks.controller,
        minimum_job_age_backoff=said.minimum_job_age_backoff,
        version=__version__,
        ca_cert_bundle=base64.b64encode(said.ca_bundle.encode()).decode() if said.ca_bundle else msgspec.UNSET,
    )


def _controller(store: Store, where: Where) -> list[HTTPRouteHandler]:
    @get("/controller-info", operation_id="ControllerInfo")
    async def get_controller() -> ControllerInfo:
        """This installation and the addresses by which it is called."""
        return await controller_info(store, where)

    @put("/controller", operation_id="UpdateController")
    async def update_controller(request: AnyRequest, data: JSONBody[UpdateControllerParams]) -> ControllerInfo:
        """Say where it is called, for machines made from now on. What is left out stays; empty is as configured.

        So is the address of this API, which GARM's client sends when it is initialised: machines are served elsewhere.
        """
        here = {urlsplit(where.public_url).netloc, request.headers.get("host", "")}
        await store.settings.change(data.changes() | dict.fromkeys(_of_this_api(data, here), ""))
        return await controller_info(store, where)

    @get("/providers", operation_id="ListProviders")
    async def list_providers() -> list[ProviderBody]:
        """Clouds as configured, and the drivers of the hosts that have come in."""
        drivers = sorted({driver for host in await store.hosts.all() for driver in host.drivers})
        clouds = [ProviderBody(name, "external", "a provider executable") for name in where.clouds]
        return [*clouds, *(ProviderBody(name, "internal", "a driver of build hosts") for name in drivers)]

    return [get_controller, update_controller, list_providers]


def _of_this_api(data: UpdateControllerParams, here: set[str]) -> Iterator[str]:
    """Which of the machines' addresses are those that GARM has where its API is."""
    for name, path in (("metadata_url", "/api/v1/metadata"), ("callback_url", "/api/v1/callbacks")):
        url = urlsplit(getattr(data, name) or "")
        if url.netloc in here and url.path.rstrip("/") == path:
            yield name


_ASKS: Final = 2
"""Of the forge for one deletion: a runner that was not registered may be so a moment later."""


def _instances(store: Store, may_go: MayGo) -> list[HTTPRouteHandler]:
    @get("/instances", operation_id="ListInstances")
    async def list_instances(
        outdated_only: Annotated[bool, QueryParameter(name="outdatedOnly")] = False,
    ) -> list[InstanceBody]:
        """`outdatedOnly`: those that were made before their pools were changed."""
        there = await view(store)
        pools = {known.pool.id: known.pool for known in there.there.pools.values()}
        return [
            one for one in there.instances_of() if not outdated_only or one.generation < pools[one.pool_id].generation
        ]

    @get("/instances/{name:str}", operation_id="GetInstance")
    async def get_instance(name: FromPath[str]) -> InstanceBody:
        """One by its name, with what has happened to it so far; also one that is gone, for as long as it is kept."""
        instance = await _instance(store, name)
        entries = await store.history.of_instance(instance.id)
        system = await store.history.system(instance.id)
        return shapes.instance_body(instance, await store.catalog.pool(instance.pool_id), system, entries)

    @delete("/instances/{name:str}", status_code=200, operation_id="DeleteInstance", opt=needs(Role.OPERATOR))
    async def delete_instance(
        name: FromPath[str],
        force: Annotated[bool, QueryParameter(name="forceRemove")] = False,
        bypass: Annotated[bool, QueryParameter(name="bypassGHUnauthorized")] = False,
    ) -> None:
        """Deregister its runner, and destroy the machine.

        Refused while the runner has a job, unless `forceRemove`. `bypassGHUnauthorized`: also when the forge cannot be
        asked, which may leave its runner there.
        """
        for _ in range(_ASKS):
            instance = await _instance(store, name)
            if not force and not await _lets_go(may_go, instance, bypass=bypass):
                break
            if await store.upkeep.dismiss(instance, force=force):
                return
        raise ApiError(400, f"the runner '{name}' has a job: let it end, or use forceRemove")

    return [list_instances, get_instance, delete_instance]


async def _instance(store: Store, name: str) -> Instance:
    instance = None if "\0" in name else await store.history.instance(name)
    if instance is None:
        raise none("instance", name)
    return instance


async def _lets_go(may_go: MayGo, instance: Instance, *, bypass: bool) -> bool:
    if instance.runner_status is RunnerStatus.ACTIVE:
        return False
    try:
        return instance.status is Status.DELETED or await may_go(instance)
    except ForgeError as error:
        if bypass:
            return True
        raise ApiError(502, f"the forge could not be asked whether the runner has a job: {error}") from None


def _jobs(store: Store) -> list[HTTPRouteHandler]:
    @get("/jobs", operation_id="ListJobs")
    async def list_jobs() -> list[JobBody]:
        """Those that are not completed, the oldest first."""
        jobs = await store.history.jobs(completed=False)
        entities = {known.entity.id: known.entity for known in (await declared(store)).there.entities.values()}
        return [shapes.job_body(job, entities) for job in jobs if job.entity_id in entities]

    return [list_jobs]
