"""Sends hosts what they are to fetch before a machine needs it. What is wanted is in the database."""

from collections.abc import Set

from coordinator.fleet import wire
from coordinator.fleet.links import Links
from coordinator.store.store import Store


class Prefetcher:
    """Agents take a repeated command for nothing new, so it is sent until they say that they have begun."""

    def __init__(self, store: Store, links: Links) -> None:
        self._store = store
        self._links = links

    async def tell(self, hosts: Set[str]) -> None:
        """Those of the hosts that are connected here."""
        here = {host: link for host in hosts if (link := self._links.get(host)) is not None}
        if not here:
            return
        for host, image in await self._store.images.wanted():
            if host in here:
                here[host].send(wire.prefetch_command(image))
