"""What is committed, as the events that GARM's clients know: the body that the API shows, or the id of what is gone."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from coordinator.accounts.roles import Role
from coordinator.domain.instance import Status
from coordinator.rest import accounts, fleet, proxies, scale_sets, shapes, templates
from coordinator.rest.fleet import Where
from coordinator.rest.view import View, view
from coordinator.store.changed import Changes
from coordinator.store.store import Store

_OPERATIONS: Final = {"created": "create", "updated": "update", "removed": "delete"}
_NAMES: Final = {"forge instance": "forge_instance", "scale set": "scaleset"}  # GARM's, where ours are others


class Event(msgspec.Struct, frozen=True, rename="kebab"):
    entity_type: str
    operation: str  # create, update or delete
    payload: Any

    def is_for(self, role: Role) -> bool:
        """Of users only those are told who may see them."""
        return self.entity_type != "user" or role is Role.ADMIN


class Events:
    def __init__(self, store: Store, where: Where) -> None:
        self._store = store
        self._where = where
        self._numbered: Mapping[str, Callable[[str], Awaitable[Any]]] = {
            "scale set": self._scale_set,
            "template": self._template,
            "proxy": self._proxy,
        }

    async def of(self, changes: Changes) -> list[Event]:
        """What is gone again by the time that it is read is left out: its deletion is told of."""
        there = await view(self._store)
        found = [await self._declared(one, there) for one in sorted(changes.declared)]
        found += [await self._job(job_id, there, "create") for job_id in sorted(changes.arrived)]
        found += [await self._job(job_id, there, "update") for job_id in sorted(changes.jobs - changes.arrived.keys())]
        found += [await self._instance(instance_id, there) for instance_id in sorted(changes.instances)]
        return [one for one in found if one is not None]

    async def _declared(self, said: str, there: View) -> Event | None:
        kind, what, key = said.split("/", 2)
        operation = _OPERATIONS[what]
        if operation == "delete":
            name = _NAMES.get(kind, kind.replace(" ", "_"))
            return Event(name, operation, {"id": int(key) if key.isdecimal() else key})
        if kind in self._numbered:
            body = await self._numbered[kind](key)
            return None if body is None else Event(_NAMES.get(kind, kind), operation, body)
        if kind == "user":
            user = await self._store.users.get(key)
            return None if user is None else Event(kind, operation, accounts.user_body(user))
        if kind == "controller":
            return Event(kind, operation, await fleet.controller_info(self._store, self._where))
        return _of_overview(kind, operation, key, there)

    async def _scale_set(self, row_id: str) -> Any:
        return await scale_sets.of_row(self._store, row_id)

    async def _template(self, row_id: str) -> Any:
        return next((templates.body(one) for one in await self._store.edits.templates() if one.id == row_id), None)

    async def _proxy(self, row_id: str) -> Any:
        return next((proxies.body(one) for one in await self._store.edits.proxies() if one.id == row_id), None)

    async def _job(self, job_id: str, there: View, operation: str) -> Event | None:
        job = await self._store.history.job(job_id)
        if job is None or job.entity_id not in there.there.entities:
            return None
        entities = {job.entity_id: there.there.entities[job.entity_id].entity}
        return Event("job", operation, shapes.job_body(job, entities))

    async def _instance(self, instance_id: str, there: View) -> Event | None:
        instance = await self._store.history.instance(instance_id)
        if instance is None or instance.pool_id not in there.there.pools:
            return None
        if instance.status is Status.DELETED:
            return Event("instance", "delete", {"id": instance.id, "name": instance.name})
        operation = "create" if instance.changed_at == instance.created_at else "update"
        pool = there.there.pools[instance.pool_id].pool
        system = await self._store.history.system(instance.id)
        return Event("instance", operation, shapes.instance_body(instance, pool, system))


def _of_overview(kind: str, operation: str, row_id: str, there: View) -> Event | None:
    """None: it is gone, or none of GARM's kinds, as flavors and images."""
    found = there.there
    if kind == "endpoint" and row_id in found.endpoints:
        known = found.endpoints[row_id]
        return Event(f"{known.endpoint.kind}_endpoint", operation, shapes.endpoint_body(known))
    if kind == "credentials" and row_id in found.credentials:
        secret = found.credentials[row_id]
        forge = found.endpoints[secret.endpoint_id].endpoint.kind
        return Event(f"{forge}_credentials", operation, there.credentials_body(secret))
    if kind == "pool" and row_id in found.pools:
        return Event(kind, operation, there.pool_body(found.pools[row_id]))
    entity = found.entities.get(row_id)
    if entity is not None and entity.entity.kind.word == kind:
        return Event(_NAMES.get(kind, kind), operation, there.entity_body(entity))
    return None
