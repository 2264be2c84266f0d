"""Scale sets, by their numbers and as those of an entity. They are kept; no runner is made for them yet."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from coordinator.declare_base import declaration
from coordinator.declare_entity import owner_keys
from coordinator.declare_pool import ScaleSetDeclaration
from coordinator.domain.fleet import EntityKind
from coordinator.http.errors import ApiError
from coordinator.rest import choosing, numbered
from coordinator.rest.params_scale_sets import CreateScaleSetParams, UpdateScaleSetParams
from coordinator.rest.served import SERVED, Served
from coordinator.rest.shapes import (
    GROUP,
    ForgeEndpoint,
    InstanceBody,
    OwnerNames,
    Tag,
    endpoint_body,
    owner_names,
    seen_specs,
)
from coordinator.rest.view import View, declared, none
from coordinator.store.edits import SCALE_SET
from coordinator.store.listed import KnownScaleSet
from coordinator.store.store import Store

# GARM's, where ours are others.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "name": "",
    "enabled": False,
    "runner_prefix": "garm",
    "image": "",
    "flavor": "",
}
_PENDING: Final = "pending_create"  # until the forge has it


class ScaleSet(OwnerNames, frozen=True, kw_only=True, rename=GROUP):
    id: int
    scale_set_id: int  # at the forge; 0: it has none
    name: str
    state: str
    extended_state: str
    provider_name: str
    image: str
    flavor: str
    os_type: str
    os_arch: str
    tags: list[Tag]
    enabled: bool
    disable_update: bool
    desired_runner_count: int
    max_runners: int
    min_idle_runners: int
    runner_prefix: str
    runner_group: str
    runner_bootstrap_timeout: int  # minutes
    generation: int
    extra_specs: dict[str, Any]
    template_id: int  # 0: none comes with Hostler for it
    template_name: str
    proxy_id: int  # 0: none
    proxy_name: str
    endpoint: ForgeEndpoint
    instances: list[InstanceBody]
    created_at: datetime
    updated_at: datetime


def routes(store: Store, clouds: frozenset[str]) -> list[HTTPRouteHandler]:
    """
    Args:
        clouds: names of providers; all others are drivers of hosts.
    """
    of_entities = [
        one for served in SERVED if served.kind is not EntityKind.INSTANCE for one in _of(store, served, clouds)
    ]
    return [*_looking(store), *_changing(store, clouds), *of_entities]


def _looking(store: Store) -> list[HTTPRouteHandler]:
    @get("/scalesets", operation_id="ListScalesets")
    async def list_scale_sets() -> list[ScaleSet]:
        return await _all(store)

    @get("/scalesets/{number:int}", operation_id="GetScaleSet")
    async def get_scale_set(number: FromPath[int]) -> ScaleSet:
        return await _told(store, number)

    @get("/scalesets/{number:int}/instances", operation_id="ListScaleSetInstances")
    async def list_scale_set_instances(
        number: FromPath[int],
        outdated_only: Annotated[bool, QueryParameter(name="outdatedOnly")] = False,  # noqa: ARG001 (there are none)
    ) -> list[InstanceBody]:
        return (await _told(store, number)).instances

    return [list_scale_sets, get_scale_set, list_scale_set_instances]


def _changing(store: Store, clouds: frozenset[str]) -> list[HTTPRouteHandler]:
    @put("/scalesets/{number:int}", operation_id="UpdateScaleSet")
    async def update_scale_set(number: FromPath[int], data: JSONBody[UpdateScaleSetParams]) -> ScaleSet:
        """What is left out stays."""
        known = numbered.find("scale set", number, await store.edits.scale_sets())
        there = await declared(store)
        entity = there.there.entities.get(known.entity_id)
        if entity is None:
            raise none("scale set", str(number))
        said = await choosing.changes(store, data, there, entity.entity, known.os_type)
        await store.edits.change(SCALE_SET, number, said, clouds)
        return await _told(store, number)

    @delete("/scalesets/{number:int}", status_code=200, operation_id="DeleteScaleSet")
    async def delete_scale_set(number: FromPath[int]) -> None:
        """Refused while it is enabled. One that is not there is no error, as at GARM."""
        numbered.check("scale set", number)
        known = next((one for one in await store.edits.scale_sets() if one.number == number), None)
        if known is None:
            return
        if known.enabled:
            raise ApiError(400, "scale set is enabled; disable it first")
        await store.edits.remove(SCALE_SET, number)

    return [update_scale_set, delete_scale_set]


def _of(store: Store, served: Served, clouds: frozenset[str]) -> list[HTTPRouteHandler]:
    path, called, kind = f"{served.of_one}/scalesets", f"{served.one}ScaleSet", served.kind

    @get(path, operation_id=f"List{called}s")
    async def list_entity_scale_sets(entity_id: FromPath[str]) -> list[ScaleSet]:
        (await declared(store)).entity(kind, entity_id)
        return await _all(store, entity_id)

    @post(path, status_code=200, operation_id=f"Create{called}")
    async def create_entity_scale_set(entity_id: FromPath[str], data: JSONBody[CreateScaleSetParams]) -> ScaleSet:
        there = await declared(store)
        entity = there.entity(kind, entity_id).entity
        values = {
            **_DEFAULTS,
            **await choosing.changes(store, data, there, entity),
            "endpoint": there.there.endpoints[entity.endpoint_id].endpoint.name,
            "provider": data.provider_name,
            **owner_keys(entity.named),
        }
        made = await store.edits.add(declaration(ScaleSetDeclaration, values), clouds)
        told = await of_row(store, made)
        if told is None:  # it was removed again since
            raise none("scale set", data.name or "")
        return told

    return [list_entity_scale_sets, create_entity_scale_set]


async def _all(store: Store, entity_id: str | None = None) -> list[ScaleSet]:
    known = await store.edits.scale_sets()  # first: whose they are is there, or they are gone
    there = await declared(store)
    mine = [one for one in known if entity_id in (None, one.entity_id)]
    return [_body(one, there) for one in mine if one.entity_id in there.there.entities]


async def of_row(store: Store, row_id: str) -> ScaleSet | None:
    for known in await store.edits.scale_sets():
        if known.id == row_id:
            return await _told(store, known.number)
    return None


async def _told(store: Store, number: int) -> ScaleSet:
    known = numbered.find("scale set", number, await store.edits.scale_sets())
    there = await declared(store)
    if known.entity_id not in there.there.entities:
        raise none("scale set", str(number))
    return _body(known, there)


def _body(known: KnownScaleSet, there: View) -> ScaleSet:
    entity = there.there.entities[known.entity_id].entity
    template = there.template(known.template_id, entity, known.os_type)
    proxy = there.proxy(known.proxy_id)
    return ScaleSet(
        id=known.number,
        scale_set_id=0,
        name=known.name,
        state=_PENDING,
        extended_state="",
        provider_name=known.provider,
        image=known.image,
        flavor=known.flavor,
        os_type=known.os_type,
        os_arch=known.arch,
        tags=[Tag(label, label) for label in sorted(known.labels)],
        enabled=known.enabled,
        disable_update=known.disable_update,
        desired_runner_count=0,
        max_runners=known.max_runners,
        min_idle_runners=known.min_idle,
        runner_prefix=known.runner_prefix,
        runner_group=known.runner_group,
        runner_bootstrap_timeout=int(known.bootstrap_timeout.total_seconds()) // 60,
        generation=known.generation,
        extra_specs=seen_specs(known.extra_specs),
        template_id=template.number,
        template_name=template.name,
        proxy_id=proxy.number,
        proxy_name=proxy.name,
        endpoint=endpoint_body(there.there.endpoints[entity.endpoint_id]),
        instances=[],
        created_at=known.times.created_at,
        updated_at=known.times.changed_at,
        **owner_names(entity),
    )
