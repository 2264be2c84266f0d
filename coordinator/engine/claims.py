"""Asks the forges whether the runner of a machine that should not be there has a job, and deregisters it if not."""

import asyncio
from typing import Final

from coordinator.domain import sightings
from coordinator.domain.instance import Instance
from coordinator.domain.reconcile import Claim
from coordinator.engine.registrar import Registrar
from coordinator.store.store import Store

_GAP_SECONDS: Final = 2.0
"""Between two questions for machines whose repository is not known: they must not use up what a forge allows."""


class Claims:
    def __init__(self, store: Store, registrar: Registrar) -> None:
        self._store = store
        self._registrar = registrar
        self._turn = asyncio.Lock()

    async def of(self, name: str, instance: Instance | None) -> Claim:
        """
        Args:
            name: the machine's, and its runner's.
            instance: its, which has ended; None when none is known.

        Raises:
            ForgeError: a forge could not be asked, so nothing is known.
        """
        if instance is not None:
            return Claim.FREE if await self._registrar.may_go(instance) else Claim.BUSY
        pools = await self._store.catalog.pools()
        entities = sorted({pool.entity_id for pool in pools if sightings.gives(pool, name)})
        for entity_id in entities:
            async with self._turn:
                runner = await self._registrar.ask(entity_id, lambda forge: forge.runner_named(name))
                await asyncio.sleep(_GAP_SECONDS)
            if runner is not None:
                return Claim.FREE if await self._registrar.remove(entity_id, runner.id) else Claim.BUSY
        return Claim.FREE if entities else Claim.NOBODYS
