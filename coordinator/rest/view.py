"""What is declared and what runs, as of one request, with who belongs to whom."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from coordinator.domain.fleet import Entity, EntityKind, ForgeKind
from coordinator.domain.instance import Instance
from coordinator.http.errors import ApiError
from coordinator.rest import shapes
from coordinator.rest.shapes import EntityBody, ForgeCredentials, InstanceBody, PoolBody
from coordinator.store.history import System
from coordinator.store.overview import KnownCredentials, KnownEndpoint, KnownEntity, KnownPool, Numbered, Overview
from coordinator.store.store import Store
from coordinator.templates.system import SYSTEM

_NONE: Final = Numbered(0, "")


class View:
    def __init__(
        self, there: Overview, instances: Iterable[Instance] = (), systems: Mapping[str, System] | None = None
    ) -> None:
        """`systems`: what the machines have said of themselves, by instance."""
        self.there = there
        self._systems = systems or {}
        self._instances: defaultdict[str, list[Instance]] = defaultdict(list)  # by pool
        for one in instances:
            if one.pool_id in there.pools:  # else the pool was removed since, and this instance is over
                self._instances[one.pool_id].append(one)

    # --- one, or 404 ---

    def endpoint(self, forge: ForgeKind, name: str) -> KnownEndpoint:
        for known in self.endpoints(forge):
            if known.endpoint.name == name:
                return known
        raise none("endpoint", name)

    def credentials(self, forge: ForgeKind, number: int) -> KnownCredentials:
        for known in self.credentials_of(forge):
            if known.number == number:
                return known
        raise none("credentials", str(number))

    def entity(self, kind: EntityKind, entity_id: str) -> KnownEntity:
        known = self.there.entities.get(entity_id)
        if known is None or known.entity.kind is not kind:
            raise none(kind.word, entity_id)
        return known

    def pool(self, pool_id: str) -> KnownPool:
        if pool_id not in self.there.pools:
            raise none("pool", pool_id)
        return self.there.pools[pool_id]

    def pool_of(self, kind: EntityKind, entity_id: str, pool_id: str) -> KnownPool:
        self.entity(kind, entity_id)
        known = self.there.pools.get(pool_id)
        if known is None or known.pool.entity_id != entity_id:
            raise none("pool", pool_id)
        return known

    # --- several ---

    def endpoints(self, forge: ForgeKind) -> list[KnownEndpoint]:
        return [known for known in self.there.endpoints.values() if known.endpoint.kind is forge]

    def credentials_of(self, forge: ForgeKind) -> list[KnownCredentials]:
        ids = {known.endpoint.id for known in self.endpoints(forge)}
        return [known for known in self.there.credentials.values() if known.endpoint_id in ids]

    def entities(self, kind: EntityKind) -> list[KnownEntity]:
        return [known for known in self.there.entities.values() if known.entity.kind is kind]

    # --- bodies ---

    def credentials_body(self, known: KnownCredentials) -> ForgeCredentials:
        users = [
            self.entity_body(entity, pools=False)
            for entity in self.there.entities.values()
            if entity.entity.credentials_id == known.id
        ]
        return shapes.credentials_body(known, self.there.endpoints[known.endpoint_id], users)

    def entity_body(self, known: KnownEntity, *, pools: bool = True) -> EntityBody:
        entity = known.entity
        mine = [one for one in self.there.pools.values() if one.pool.entity_id == entity.id] if pools else []
        return shapes.entity_body(
            known,
            self.there.credentials[entity.credentials_id],
            self.there.endpoints[entity.endpoint_id],
            [self.pool_body(one) for one in mine],
        )

    def pool_body(self, known: KnownPool) -> PoolBody:
        entity = self.there.entities[known.pool.entity_id].entity
        endpoint = self.there.endpoints[entity.endpoint_id]
        template = self.template(known.template_id, entity, known.pool.os_type)
        return shapes.pool_body(
            known, entity, endpoint, template, self.proxy(known.pool.proxy_id), self.instances(known)
        )

    def proxy(self, proxy_id: str | None) -> Numbered:
        """By which machines reach the outside."""
        return self.there.proxies.get(proxy_id or "", _NONE)

    def template(self, template_id: str | None, entity: Entity, os_type: str) -> Numbered:
        """By which runners of the entity are made on a system.

        Args:
            template_id: of the row that was chosen; None: what comes with Hostler.
        """
        if template_id is not None:
            return self.there.templates.get(template_id, _NONE)
        forge = self.there.endpoints[entity.endpoint_id].endpoint.kind
        for one in SYSTEM:
            if (one.forge, one.os_type) == (forge, os_type):
                return Numbered(one.number, one.name)
        return _NONE

    def instances(self, known: KnownPool) -> list[InstanceBody]:
        return [
            shapes.instance_body(one, known.pool, self._systems.get(one.id, System()))
            for one in self._instances.get(known.pool.id, ())
        ]

    def instances_of(self, entity_id: str | None = None) -> list[InstanceBody]:
        """Of an entity, or all."""
        pools = [one for one in self.there.pools.values() if entity_id in (None, one.pool.entity_id)]
        return [instance for pool in pools for instance in self.instances(pool)]


async def view(store: Store) -> View:
    instances = await store.instances.alive()  # first: what they refer to is there, or they are over
    return View(await store.edits.overview(), instances, await store.history.systems())


async def declared(store: Store) -> View:
    """Without instances."""
    return View(await store.edits.overview())


def none(kind: str, name: str) -> ApiError:
    return ApiError(404, f"there is no {kind} '{name[:100]}'")
