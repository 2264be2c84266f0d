"""What is declared and what runs, as of one request, with who belongs to whom."""

from collections import defaultdict
from collections.abc import Iterable

from coordinator.domain.instance import Instance
from coordinator.http.errors import ApiError
from coordinator.rest import shapes
from coordinator.rest.shapes import ForgeCredentials, InstanceBody, PoolBody, Repository
from coordinator.store.overview import KnownCredentials, KnownEndpoint, KnownEntity, KnownPool, Overview
from coordinator.store.store import Store


class View:
    def __init__(self, there: Overview, instances: Iterable[Instance] = ()) -> None:
        self.there = there
        self._instances: defaultdict[str, list[Instance]] = defaultdict(list)  # by pool
        for one in instances:
            if one.pool_id in there.pools:  # else the pool was removed since, and this instance is over
                self._instances[one.pool_id].append(one)

    # --- one, or 404 ---

    def endpoint(self, name: str) -> KnownEndpoint:
        for known in self.there.endpoints.values():
            if known.endpoint.name == name:
                return known
        raise none("endpoint", name)

    def credentials(self, number: int) -> KnownCredentials:
        for known in self.there.credentials.values():
            if known.number == number:
                return known
        raise none("credentials", str(number))

    def repository(self, repo_id: str) -> KnownEntity:
        if repo_id not in self.there.entities:
            raise none("repository", repo_id)
        return self.there.entities[repo_id]

    def pool(self, pool_id: str, repo_id: str | None = None) -> KnownPool:
        """`repo_id`: of which it must be."""
        if repo_id is not None:
            self.repository(repo_id)
        known = self.there.pools.get(pool_id)
        if known is None or repo_id not in (None, known.pool.entity_id):
            raise none("pool", pool_id)
        return known

    # --- bodies ---

    def credentials_body(self, known: KnownCredentials) -> ForgeCredentials:
        users = [
            self.repository_body(entity, pools=False)
            for entity in self.there.entities.values()
            if entity.entity.credentials_id == known.id
        ]
        return shapes.credentials_body(known, self.there.endpoints[known.endpoint_id], users)

    def repository_body(self, known: KnownEntity, *, pools: bool = True) -> Repository:
        entity = known.entity
        mine = [one for one in self.there.pools.values() if one.pool.entity_id == entity.id] if pools else []
        return shapes.repository_body(
            known,
            self.there.credentials[entity.credentials_id],
            self.there.endpoints[entity.endpoint_id],
            [self.pool_body(one) for one in mine],
        )

    def pool_body(self, known: KnownPool) -> PoolBody:
        entity = self.there.entities[known.pool.entity_id].entity
        return shapes.pool_body(known, entity, self.there.endpoints[entity.endpoint_id], self.instances(known))

    def instances(self, known: KnownPool) -> list[InstanceBody]:
        return [shapes.instance_body(one, known.pool) for one in self._instances.get(known.pool.id, ())]

    def instances_of(self, repo_id: str | None = None) -> list[InstanceBody]:
        """Of a repository, or all."""
        pools = [one for one in self.there.pools.values() if repo_id in (None, one.pool.entity_id)]
        return [instance for pool in pools for instance in self.instances(pool)]


async def view(store: Store) -> View:
    instances = await store.instances.alive()  # first: what they refer to is there, or they are over
    return View(await store.edits.overview(), instances)


async def declared(store: Store) -> View:
    """Without instances."""
    return View(await store.edits.overview())


def none(kind: str, name: str) -> ApiError:
    return ApiError(404, f"there is no {kind} '{name[:100]}'")
