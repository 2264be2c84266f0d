"""What every coordinator does: it sends commands to the hosts whose streams it holds, whoever plans."""

from collections.abc import Iterable, Set
from typing import Final

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import Instance, Status
from coordinator.engine.errands import Errands
from coordinator.engine.local import LocalExecutor
from coordinator.fleet.links import Links
from coordinator.store.changed import Changes
from coordinator.store.store import Store

CREATES: Final = (Status.PENDING_CREATE, Status.CREATING)
DELETES: Final = (Status.PENDING_DELETE, Status.PENDING_FORCE_DELETE, Status.DELETING)


class Hands:
    def __init__(self, store: Store, links: Links, local: LocalExecutor) -> None:
        self._store = store
        self._links = links
        self._local = local
        self._errands = Errands(lambda instance_id: store.feed.changed(Changes(instances={instance_id})))

    def act(self, instance: Instance, pool: Pool) -> None:
        """Send what the instance's state asks for, if its host is ours."""
        if instance.status in CREATES:
            self._errands.ensure("create", instance.id, self._local.create(instance, pool))
        if instance.status in DELETES:
            self._errands.ensure("delete", instance.id, self._local.delete(instance))

    async def take_in(self, changes: Changes) -> None:
        """Act on what another coordinator, which plans, or our own agents have changed."""
        hosts = self._links.hosts()
        if not hosts:
            return
        if changes.everything:
            instances = await self._store.instances.alive()
            self.keep_only({instance.id for instance in instances})
        else:
            instances = await self._store.instances.some(sorted(changes.instances))
            for instance in instances:
                if instance.status is Status.DELETED:
                    self._local.resend(instance.id)
        await self._act_on(instance for instance in instances if instance.host in hosts)

    async def _act_on(self, instances: Iterable[Instance]) -> None:
        pools: dict[str, Pool] = {}
        for instance in instances:
            if instance.status not in (*CREATES, *DELETES):
                continue
            if instance.pool_id not in pools:
                pools[instance.pool_id] = await self._store.catalog.pool(instance.pool_id)
            self.act(instance, pools[instance.pool_id])

    def keep_only(self, alive: Set[str]) -> None:
        """Drop what is kept of instances that are no more."""
        self._local.forget(alive)
        self._errands.keep_only(alive.__contains__)

    async def close(self) -> None:
        await self._errands.close()
