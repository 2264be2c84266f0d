"""The executor for machines on our own hosts: commands down the agents' streams."""

from collections.abc import Callable, Set
from datetime import datetime

from coordinator.domain.changes import Step
from coordinator.domain.fleet import Pool
from coordinator.domain.instance import Instance, Status
from coordinator.domain.timeline import Entry
from coordinator.fleet import wire
from coordinator.fleet.links import Link, Links
from coordinator.runner_api import scripts
from coordinator.runner_api.outside import outside_of
from coordinator.runner_api.scripts import Urls
from coordinator.store.store import Store
from coordinator.tokens import InstanceTokens


class LocalExecutor:
    """Sends each command once per stream. What a broken stream lost is sent again after the agent's inventory."""

    def __init__(
        self, store: Store, links: Links, tokens: InstanceTokens, where: Urls, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._links = links
        self._tokens = tokens
        self._where = where
        self._clock = clock
        self._sent: dict[str, tuple[Link, int]] = {}

    def resend(self, instance_id: str) -> None:
        """Forget that a command was sent: the host has not got it."""
        self._sent.pop(instance_id, None)

    def _link(self, instance: Instance) -> Link | None:
        """The stream to send on; None when there is none, or this command is on it already."""
        link = self._links.get(instance.host)
        if link is None or self._sent.get(instance.id) == (link, instance.generation):
            return None
        return link

    async def create(self, instance: Instance, pool: Pool) -> None:
        link = self._link(instance)
        if link is None:
            return
        access = await self._store.catalog.forge_access(instance.entity_id)
        token = self._tokens.mint(instance, access.entity)
        where = self._where.but(await self._store.settings.get())
        outside = await outside_of(self._store, pool, access)
        data = scripts.user_data(instance, pool, where, token, outside)
        image = await self._store.images.find(instance.image, pool.arch)
        self._sent[instance.id] = (link, instance.generation)
        command = wire.create_command(instance, pool, image, where, token, data)
        link.send(command, lambda: self._note(instance))

    def _note(self, instance: Instance) -> None:
        self._store.notes.add([Entry(Step.DISPATCHED, self._clock(), "", instance.id, instance.host)])

    async def delete(self, instance: Instance) -> None:
        link = self._link(instance)
        if link is None:
            return
        self._sent[instance.id] = (link, instance.generation)
        link.send(wire.delete_command(instance.id, instance.generation))
        await self._store.instances.begin(instance.id, Status.DELETING)

    def forget(self, alive: Set[str]) -> None:
        """Drop what is kept of instances that are no more."""
        for instance_id in self._sent.keys() - alive:
            del self._sent[instance_id]
