"""Pools, by their ids and as those of an entity."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from coordinator.declare import PoolDeclaration, declaration
from coordinator.declare_entity import owner_keys
from coordinator.rest import choosing
from coordinator.rest.params_entities import CreatePoolParams, UpdatePoolParams
from coordinator.rest.served import SERVED, Served
from coordinator.rest.shapes import InstanceBody, PoolBody
from coordinator.rest.view import View, declared, view
from coordinator.store.edits import POOL, NotThere
from coordinator.store.store import Store

# GARM's, where ours are others.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "enabled": False,
    "runner_prefix": "garm",
    "image": "",
    "flavor": "",
    "labels": [],
}


def routes(store: Store, clouds: frozenset[str]) -> list[HTTPRouteHandler]:
    """
    Args:
        clouds: names of providers; all others are drivers of hosts.
    """
    of_entities = [one for served in SERVED for one in _of_entities(store, served, clouds)]
    return [*_looking(store), *_changing(store, clouds), *of_entities]


def _looking(store: Store) -> list[HTTPRouteHandler]:
    @get("/pools", operation_id="ListPools")
    async def list_pools() -> list[PoolBody]:
        there = await view(store)
        return [there.pool_body(known) for known in there.there.pools.values()]

    @get("/pools/{pool_id:str}", operation_id="GetPool")
    async def get_pool(pool_id: FromPath[str]) -> PoolBody:
        return await _told(store, pool_id)

    @get("/pools/{pool_id:str}/instances", operation_id="ListPoolInstances")
    async def list_pool_instances(
        pool_id: FromPath[str], outdated_only: Annotated[bool, QueryParameter(name="outdatedOnly")] = False
    ) -> list[InstanceBody]:
        """`outdatedOnly`: those that were made before the pool was changed."""
        there = await view(store)
        known = there.pool(pool_id)
        found = there.instances(known)
        return [one for one in found if one.generation < known.pool.generation] if outdated_only else found

    return [list_pools, get_pool, list_pool_instances]


def _changing(store: Store, clouds: frozenset[str]) -> list[HTTPRouteHandler]:
    @put("/pools/{pool_id:str}", operation_id="UpdatePool")
    async def update_pool(pool_id: FromPath[str], data: JSONBody[UpdatePoolParams]) -> PoolBody:
        """What is left out stays. Idle runners of an older making are replaced."""
        return await _change(store, await declared(store), pool_id, data, clouds)

    @delete("/pools/{pool_id:str}", status_code=200, operation_id="DeletePool")
    async def delete_pool(pool_id: FromPath[str]) -> None:
        """Refused while it has runners. One that is not there is no error, as at GARM."""
        try:
            await store.edits.remove(POOL, pool_id)
        except NotThere:
            return

    return [update_pool, delete_pool]


def _of_entities(store: Store, served: Served, clouds: frozenset[str]) -> list[HTTPRouteHandler]:
    path, called, kind = f"{served.of_one}/pools", f"{served.one}Pool", served.kind

    @get(path, operation_id=f"List{called}s")
    async def list_entity_pools(entity_id: FromPath[str]) -> list[PoolBody]:
        there = await view(store)
        return there.entity_body(there.entity(kind, entity_id)).pool

    @post(path, status_code=200, operation_id=f"Create{called}")
    async def create_entity_pool(entity_id: FromPath[str], data: JSONBody[CreatePoolParams]) -> PoolBody:
        """A pool that makes nothing until it is enabled."""
        there = await declared(store)
        entity = there.entity(kind, entity_id).entity
        values = {
            **_DEFAULTS,
            **await choosing.changes(store, data, there, entity),
            "name": data.name or store.new_id(),
            "endpoint": there.there.endpoints[entity.endpoint_id].endpoint.name,
            "provider": data.provider_name,
            **owner_keys(entity.named),
        }
        return await _told(store, await store.edits.add(declaration(PoolDeclaration, values), clouds))

    @get(f"{path}/{{pool_id:str}}", operation_id=f"Get{called}")
    async def get_entity_pool(entity_id: FromPath[str], pool_id: FromPath[str]) -> PoolBody:
        there = await view(store)
        return there.pool_body(there.pool_of(kind, entity_id, pool_id))

    @put(f"{path}/{{pool_id:str}}", operation_id=f"Update{called}")
    async def update_entity_pool(
        entity_id: FromPath[str], pool_id: FromPath[str], data: JSONBody[UpdatePoolParams]
    ) -> PoolBody:
        there = await declared(store)
        there.pool_of(kind, entity_id, pool_id)
        return await _change(store, there, pool_id, data, clouds)

    @delete(f"{path}/{{pool_id:str}}", status_code=200, operation_id=f"Delete{called}")
    async def delete_entity_pool(entity_id: FromPath[str], pool_id: FromPath[str]) -> None:
        """Refused while it has runners."""
        (await declared(store)).pool_of(kind, entity_id, pool_id)
        await store.edits.remove(POOL, pool_id)

    return [list_entity_pools, create_entity_pool, get_entity_pool, update_entity_pool, delete_entity_pool]


async def _change(store: Store, there: View, pool_id: str, data: UpdatePoolParams, clouds: frozenset[str]) -> PoolBody:
    pool = there.pool(pool_id).pool
    said = await choosing.changes(store, data, there, there.there.entities[pool.entity_id].entity, pool.os_type)
    await store.edits.change(POOL, pool_id, said, clouds)
    return await _told(store, pool_id)


async def _told(store: Store, pool_id: str) -> PoolBody:
    there = await view(store)
    return there.pool_body(there.pool(pool_id))
