"""Machines that should not be on their host: unknown ones, and ones whose rows have ended while the host was away.

Their runners may work nonetheless: the database may come from a backup, or a lost host may have come back. So an
unknown one is looked at twice, forges are asked, and only what no forge calls busy is destroyed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from coordinator.domain.instance import Instance
from coordinator.domain.reconcile import STRAY, Claim, StrayAction, Wanted, wanted
from coordinator.fleet import openness, wire
from coordinator.fleet.links import Link
from coordinator.store.store import Store
from protos.hostler.v1 import fleet_pb2 as pb

log = structlog.get_logger()

ORPHAN_GRACE: Final = timedelta(seconds=60)
"""Between the two looks at a machine that nobody knows."""

_ASK_AGAIN_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 30.0
_NO_GENERATION: Final = 2**63


class Strays:
    """`claim` asks the forges of a machine's runner, by the machine's name and its ended instance, if there was one."""

    def __init__(
        self, store: Store, claim: Callable[[str, Instance | None], Awaitable[Claim]], grace: timedelta
    ) -> None:
        self._store = store
        self._claim = claim
        self._grace = grace
        self._first_seen: dict[tuple[str, str], datetime] = {}  # of unknown ones, by host and instance
        self._tasks: dict[tuple[Link, str], asyncio.Task[None]] = {}

    def question(self, link: Link, machine: pb.Machine) -> None:
        """See to a machine for as long as the stream lasts."""
        key = (link, machine.instance_id)
        if key not in self._tasks:
            task = asyncio.create_task(self._see_to(link, machine.instance_id, machine.name))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def ended(self, host: str, inventory: pb.Inventory) -> set[str]:
        """The instances of machines there whose rows have ended."""
        there = {machine.instance_id for machine in inventory.machines}
        known = await self._store.instances.some(there)
        return {one.id for one in known if one.host == host and wanted(one) is Wanted.ENDED}

    async def let_go(self, link: Link, instance_id: str) -> None:
        """A machine is gone, or is not waited for: when there is none left, the host takes others again."""
        link.strays_to_go.discard(instance_id)
        await openness.tell(self._store, link)

    def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    async def _see_to(self, link: Link, instance_id: str, name: str) -> None:
        while not link.closed.is_set():
            try:
                if await self._settle(link, instance_id, name):
                    return
            except Exception as error:  # noqa: BLE001 - the loop's edge; logged, and tried again
                link.strays[instance_id] = (name, f"it is not known whether its runner has a job: {error}")
                link.strays_to_go.discard(instance_id)
                log.warning("a stray machine is kept for now", host=link.host, machine=name, error=str(error))
            await _pause(link, _ASK_AGAIN_SECONDS)

    async def _settle(self, link: Link, instance_id: str, name: str) -> bool:
        """Whether nothing more is to be done for it."""
        if wanted(await self._store.instances.get(instance_id)) is Wanted.UNKNOWN:
            link.strays[instance_id] = (name, "nobody knows it; it is looked at once more")
            if not await self._is_there_still(link, instance_id):
                link.strays.pop(instance_id, None)
                return True
        instance = await self._store.instances.get(instance_id)  # it may have become known
        should = wanted(instance)
        if should not in (Wanted.ENDED, Wanted.UNKNOWN):
            link.strays.pop(instance_id, None)
            return True
        match STRAY[should, await self._claim(name, instance)]:
            case StrayAction.DESTROY:
                log.warning("destroying a stray machine", host=link.host, machine=name, instance=instance_id)
                link.send(wire.delete_command(instance_id, instance.generation if instance else _NO_GENERATION))
                link.strays.pop(instance_id, None)
                self._first_seen.pop((link.host, instance_id), None)
                return True
            case StrayAction.ASK_LATER:
                link.strays[instance_id] = (name, "its runner has a job; it goes when that has ended")
                await self.let_go(link, instance_id)
                log.info("a stray machine is kept: its runner has a job", host=link.host, machine=name)
                return False
            case StrayAction.KEEP:
                link.strays[instance_id] = (name, "neither an instance nor a pool is known that it could be of")
                log.warning("a machine that nobody knows is kept", host=link.host, machine=name, instance=instance_id)
                return True

    async def _is_there_still(self, link: Link, instance_id: str) -> bool:
        """Look a second time, the grace after the first. Another stream's first look counts."""
        now = self._store.now()
        first = self._first_seen.setdefault((link.host, instance_id), now)
        if now - first >= self._grace > timedelta():
            return True
        await _pause(link, (self._grace - (now - first)).total_seconds())
        link.looked.clear()
        link.send(wire.inventory_request())
        answered = asyncio.create_task(link.looked.wait())
        try:
            await _pause(link, _ANSWER_SECONDS, answered)
        finally:
            answered.cancel()
        if link.closed.is_set():
            return False
        if not link.looked.is_set():
            raise TimeoutError("its agent does not let us look again")
        if instance_id in link.inventory:
            return True
        self._first_seen.pop((link.host, instance_id), None)
        return False


async def _pause(link: Link, seconds: float, *until: asyncio.Task[Any]) -> None:
    """At most so long; less when the stream ends, or one of the tasks."""
    closed = asyncio.create_task(link.closed.wait())
    try:
        await asyncio.wait({closed, *until}, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
    finally:
        closed.cancel()
