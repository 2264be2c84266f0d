"""What only this process knows, gathered for a page of metrics."""

from collections.abc import Callable
from datetime import datetime

from coordinator.engine.budgets import Budgets
from coordinator.engine.circuits import Circuits
from coordinator.engine.engine import Engine
from coordinator.fleet.links import Links
from coordinator.metrics.families import Here
from coordinator.rest.fleet import Where, controller_info
from coordinator.store.store import Store
from hostler import __version__


class Process:
    def __init__(
        self,
        store: Store,
        where: Where,
        engine: Engine,
        links: Links,
        budgets: Budgets,
        circuits: Circuits,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._where = where
        self._engine = engine
        self._links = links
        self._budgets = budgets
        self._circuits = circuits
        self._clock = clock

    async def here(self) -> Here:
        info = await controller_info(self._store, self._where)
        plans = self._store.lease.number is not None
        names = {one.id: one.name for one in await self._store.catalog.credentials()}
        failing = self._circuits.all()
        return Here(
            version=__version__,
            controller_id=info.controller_id,
            metadata_url=info.metadata_url,
            callback_url=info.callback_url,
            webhook_url=info.webhook_url,
            controller_webhook_url=info.controller_webhook_url,
            plans=plans,
            streams=len(self._links.hosts()),
            waiting=self._engine.waiting(),
            budgets={
                names.get(credentials_id, credentials_id): budget.calls
                for credentials_id, budget in (self._budgets.now(self._clock()) if plans else {}).items()
            },
            circuits={name: name in failing and failing[name].open_until is not None for name in self._where.clouds},
            providers=self._where.clouds,
        )
