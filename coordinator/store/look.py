"""Reading instances for many who ask at once.

When a coordinator starts, each instance under way and each host that connects asks. One by one they would stand in
line for connections, hosts behind instances, and nothing is placed on a host that still waits to be taken in.
"""

from collections.abc import Collection, Iterable, Sequence

from coordinator.domain.instance import Instance
from coordinator.store import instance_rows
from coordinator.store.batch import Batcher, in_parts
from coordinator.store.database import Database


class Look:
    """Those who ask together share a query, which begins after the last of them has asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: Batcher[Collection[str], list[Instance]] = Batcher(self._read)
        self._hosts: Batcher[str, list[Instance]] = Batcher(self._read_hosts)

    async def at(self, ids: Collection[str]) -> list[Instance]:
        """Those that there are, oldest first."""
        return await self._ids.submit(ids)

    async def on(self, host: str) -> list[Instance]:
        """All on a host that are not deleted, oldest first."""
        return await self._hosts.submit(host)

    async def _read(self, asked: Sequence[Collection[str]]) -> list[list[Instance]]:
        wanted = sorted({instance_id for ids in asked for instance_id in ids})
        found: dict[str, Instance] = {}
        async with self._database.read() as connection:
            for part in in_parts(wanted):
                found |= {one.id: one for one in await instance_rows.by_ids(connection, part, lock=False)}
        return [_oldest_first(found[i] for i in set(ids) if i in found) for ids in asked]

    async def _read_hosts(self, hosts: Sequence[str]) -> list[list[Instance]]:
        async with self._database.read() as connection:
            alive = await instance_rows.alive(connection, set(hosts))
        of_host: dict[str, list[Instance]] = {}
        for instance in alive:
            of_host.setdefault(instance.host, []).append(instance)
        return [of_host.get(host, []) for host in hosts]


def _oldest_first(found: Iterable[Instance]) -> list[Instance]:
    return sorted(found, key=lambda one: (one.created_at, one.id))
