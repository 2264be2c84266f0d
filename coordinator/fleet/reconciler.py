"""An agent has connected: compare what it holds with what should be, and act on the differences."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog

from coordinator.domain.changes import Phase, Step
from coordinator.domain.reconcile import Action, reconcile
from coordinator.fleet import wire
from coordinator.fleet.links import Link
from coordinator.store.changed import Changes
from coordinator.store.instances import PhaseFact
from coordinator.store.store import Store
from protos.hostler.v1 import fleet_pb2 as pb

log = structlog.get_logger()

ORPHAN_GRACE: Final = timedelta(seconds=60)
_NO_GENERATION: Final = 2**63
_LAST_PHASE: Final = {Action.FORGET: Phase.DELETED, Action.STOPPED: Phase.STOPPED}


class Reconciler:
    def __init__(self, store: Store, resend: Callable[[str], None], orphan_grace: timedelta) -> None:
        self._store = store
        self._resend = resend  # forget that commands for this instance were sent
        self._orphan_grace = orphan_grace
        self._graces: set[asyncio.Task[None]] = set()

    async def compare(self, link: Link, inventory: pb.Inventory) -> None:
        await self._adopt_phases(link.host, inventory)
        machines = {machine.instance_id: machine for machine in inventory.machines}
        alive = await self._store.instances.alive(link.host)
        known = {instance.id for instance in alive}
        others = await self._store.instances.some(machines.keys() - known)
        ended = [instance for instance in others if instance.host == link.host]
        seen = {i: wire.seen(machine.state) for i, machine in machines.items()}
        for difference in reconcile([*alive, *ended], seen):
            await self._act(link, difference.instance_id, difference.action)
        self._store.feed.changed(Changes(instances=known))

    async def _adopt_phases(self, host: str, inventory: pb.Inventory) -> None:
        """Take over what events may have lost. Repeated phases change nothing."""
        facts = [
            PhaseFact(host, machine.instance_id, wire.PHASES[reached.phase], wire.time(reached.at))
            for machine in inventory.machines
            for reached in machine.phases
            if reached.phase in wire.PHASES
        ]
        await asyncio.gather(*(self._store.instances.record_phase(fact) for fact in facts))

    async def _act(self, link: Link, instance_id: str, action: Action) -> None:
        log.info("reconciling", host=link.host, instance=instance_id, action=action)
        if action in (Action.CREATE, Action.DESTROY):
            self._resend(instance_id)
            if action is Action.DESTROY:
                link.send(wire.delete_command(instance_id, await self._generation(instance_id)))
        elif action is Action.GONE:
            reason = "the machine is not on its host any more"
            await self._store.instances.retire(instance_id, reason, step=Step.VANISHED, failed=True)
        elif action in _LAST_PHASE:
            fact = PhaseFact(link.host, instance_id, _LAST_PHASE[action], self._store.now())
            await self._store.instances.record_phase(fact)
        elif action is Action.ORPHAN:
            self._after_grace(link, instance_id)

    async def _generation(self, instance_id: str) -> int:
        instance = await self._store.instances.get(instance_id)
        return instance.generation if instance else _NO_GENERATION

    def _after_grace(self, link: Link, instance_id: str) -> None:
        task = asyncio.create_task(self._destroy_orphan(link, instance_id))
        self._graces.add(task)
        task.add_done_callback(self._graces.discard)

    async def _destroy_orphan(self, link: Link, instance_id: str) -> None:
        """A machine that nobody knows is destroyed, unless it becomes known within the grace."""
        await asyncio.sleep(self._orphan_grace.total_seconds())
        while not link.closed.is_set():
            try:
                if await self._store.instances.get(instance_id) is not None:
                    return
                break
            except Exception:
                log.exception("it cannot be told whether a machine is known", instance=instance_id)
                await asyncio.sleep(self._orphan_grace.total_seconds())
        if link.closed.is_set():
            return
        log.warning("destroying an orphaned machine", host=link.host, instance=instance_id)
        link.send(wire.delete_command(instance_id, _NO_GENERATION))

    def close(self) -> None:
        for task in self._graces:
            task.cancel()
