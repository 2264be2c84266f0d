"""Repositories, organizations, enterprises and whole forges: the same calls under four paths."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from coordinator.declare_base import declaration
from coordinator.declare_entity import BY_KIND, keys_of
from coordinator.domain.fleet import EntityKind
from coordinator.http.errors import ApiError
from coordinator.rest.params_entities import CreateEntityParams, UpdateEntityParams
from coordinator.rest.served import SERVED, Served
from coordinator.rest.shapes import BODIES, LISTS, EntityBody, InstanceBody
from coordinator.rest.typed import typed
from coordinator.rest.view import View, declared, view
from coordinator.rest.webhooks import EntityWebhooks
from coordinator.store.edits import entity as edited
from coordinator.store.overview import KnownEntity
from coordinator.store.store import Store

_NO_CLOUDS: Final[frozenset[str]] = frozenset()  # only pools name them


def routes(store: Store, webhooks: EntityWebhooks) -> list[HTTPRouteHandler]:
    return [
        one
        for served in SERVED
        for one in (_listing(store, served), *_looking(store, served), *_changing(store, served, webhooks))
    ]


def _listing(store: Store, served: Served) -> HTTPRouteHandler:
    async def told(**wanted: str | None) -> list[EntityBody]:
        there = await view(store)
        found = there.entities(served.kind)
        return [there.entity_body(known) for known in found if _fits(there, known, wanted)]

    listed = get(served.path, operation_id=f"List{served.many}")
    returns = typed(returns=LISTS[served.kind])
    if served.kind is EntityKind.REPOSITORY:

        async def of_owner(
            owner: FromQuery[str | None] = None,
            name: FromQuery[str | None] = None,
            endpoint: FromQuery[str | None] = None,
        ) -> Any:
            return await told(owner=owner, name=name, endpoint=endpoint)

        return listed(returns(of_owner))
    if served.kind is EntityKind.INSTANCE:

        async def of_endpoint(endpoint: FromQuery[str | None] = None) -> Any:
            return await told(endpoint=endpoint)

        return listed(returns(of_endpoint))

    async def of_name(name: FromQuery[str | None] = None, endpoint: FromQuery[str | None] = None) -> Any:
        return await told(owner=name, endpoint=endpoint)

    return listed(returns(of_name))


def _fits(there: View, known: KnownEntity, wanted: Mapping[str, str | None]) -> bool:
    entity = known.entity
    endpoint = there.there.endpoints[entity.endpoint_id].endpoint
    has = {"owner": entity.owner, "name": entity.name, "endpoint": endpoint.name}
    return all(value in (None, "", has[key]) for key, value in wanted.items())


def _looking(store: Store, served: Served) -> list[HTTPRouteHandler]:
    @get(served.of_one, operation_id=f"Get{served.one}")
    @typed(returns=BODIES[served.kind])
    async def get_entity(entity_id: FromPath[str]) -> Any:
        return await _told(store, served, entity_id)

    @get(f"{served.of_one}/instances", operation_id=f"List{served.one}Instances")
    async def list_instances(entity_id: FromPath[str]) -> list[InstanceBody]:
        there = await view(store)
        return there.instances_of(there.entity(served.kind, entity_id).entity.id)

    return [get_entity, list_instances]


def _changing(store: Store, served: Served, webhooks: EntityWebhooks) -> list[HTTPRouteHandler]:
    kind = edited(served.kind)

    @post(served.path, status_code=200, operation_id=f"Create{served.one}")
    @typed(body=served.create, returns=BODIES[served.kind])
    async def create_entity(data: Any) -> Any:
        values = _declared(await declared(store), data)
        made = await store.edits.add(declaration(BY_KIND[served.kind], values), _NO_CLOUDS)
        return await _told(store, served, made)

    @put(served.of_one, operation_id=f"Update{served.one}")
    @typed(returns=BODIES[served.kind])
    async def update_entity(entity_id: FromPath[str], data: JSONBody[UpdateEntityParams]) -> Any:
        """What is left out stays. Other credentials must be of the same endpoint."""
        await store.edits.change(kind, entity_id, data.changes(), _NO_CLOUDS)
        return await _told(store, served, entity_id)

    removed = delete(served.of_one, status_code=200, operation_id=f"Delete{served.one}")
    if served.kind is EntityKind.ENTERPRISE:  # whose webhooks no forge lets us make

        async def delete_it(entity_id: FromPath[str]) -> None:
            """Refused while it has pools. Its jobs are forgotten with it."""
            await store.edits.remove(kind, entity_id)

        return [create_entity, update_entity, removed(delete_it)]

    async def delete_entity(
        entity_id: FromPath[str], keep_webhook: Annotated[bool, QueryParameter(name="keepWebhook")] = False
    ) -> None:
        """Refused while it has pools. Its jobs are forgotten with it.

        A webhook of it to us is removed at the forge, if that can be asked, unless `keepWebhook`.
        """
        (await declared(store)).entity(served.kind, entity_id)
        leave = None if keep_webhook else await webhooks.leaving(entity_id)
        await store.edits.remove(kind, entity_id)
        if leave is not None:
            await leave()

    return [create_entity, update_entity, removed(delete_entity)]


async def _told(store: Store, served: Served, entity_id: str) -> EntityBody:
    there = await view(store)
    return there.entity_body(there.entity(served.kind, entity_id))


def _declared(there: View, data: CreateEntityParams) -> dict[str, object]:
    """The keys of its declaration; the endpoint is that of its credentials."""
    name = data.credentials_name or ""
    for known in there.there.credentials.values():
        endpoint = there.there.endpoints[known.endpoint_id].endpoint
        if known.name == name and data.forge_type in (None, "", endpoint.kind):
            called = keys_of(data.named(endpoint.name))
            return {"webhook_secret": "", "endpoint": endpoint.name, **data.changes(), **called}
    of_forge = f" of {data.forge_type}" if data.forge_type else ""
    raise ApiError(400, f"credentials_name: there are no credentials '{name[:100]}'{of_forge}")
