"""An agent has connected: compare what it holds with what should be, and act on the differences."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from coordinator.domain.changes import Phase, Step
from coordinator.domain.reconcile import Action, reconcile
from coordinator.fleet import wire
from coordinator.fleet.links import Link
from coordinator.fleet.strays import Strays
from coordinator.store.changed import Changes
from coordinator.store.instances import PhaseFact
from coordinator.store.store import Store
from protos.hostler.v1 import fleet_pb2 as pb

log = structlog.get_logger()

_NO_GENERATION: Final = 2**63
_LAST_PHASE: Final = {Action.FORGET: Phase.DELETED, Action.STOPPED: Phase.STOPPED}


class Reconciler:
    def __init__(self, store: Store, resend: Callable[[str], None], strays: Strays) -> None:
        self._store = store
        self._resend = resend  # forget that commands for this instance were sent
        self._strays = strays

    async def compare(self, link: Link, inventory: pb.Inventory) -> None:
        await self._adopt_phases(link.host, inventory)
        machines = {machine.instance_id: machine for machine in inventory.machines}
        alive = await self._store.instances.alive(link.host)
        known = {instance.id for instance in alive}
        others = await self._store.instances.some(machines.keys() - known)
        ended = [instance for instance in others if instance.host == link.host]
        seen = {i: wire.seen(machine.state) for i, machine in machines.items()}
        for difference in reconcile([*alive, *ended], seen):
            await self._act(link, difference.instance_id, difference.action, machines)
        self._store.feed.changed(Changes(instances=known))

    def looked(self, link: Link, inventory: pb.Inventory) -> None:
        """A second look, within a stream. It is older than events that have come before it, so it proves one thing
        only: that what should not be there is there still.
        """
        link.inventory = frozenset(machine.instance_id for machine in inventory.machines)
        link.looked.set()

    async def _adopt_phases(self, host: str, inventory: pb.Inventory) -> None:
        """Take over what events may have lost. Repeated phases change nothing."""
        facts = [
            PhaseFact(host, machine.instance_id, wire.PHASES[reached.phase], wire.time(reached.at))
            for machine in inventory.machines
            for reached in machine.phases
            if reached.phase in wire.PHASES
        ]
        await asyncio.gather(*(self._store.instances.record_phase(fact) for fact in facts))

    async def _act(self, link: Link, instance_id: str, action: Action, machines: Mapping[str, pb.Machine]) -> None:
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
        elif action is Action.QUESTION:
            self._strays.question(link, machines[instance_id])

    async def _generation(self, instance_id: str) -> int:
        instance = await self._store.instances.get(instance_id)
        return instance.generation if instance else _NO_GENERATION
