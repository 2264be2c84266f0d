"""Feeds the meters from what is committed: each job once when it runs and once when it has ended, wherever its parts
were done. The coordinator that is told of it by the forge counts it; the others do not.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from coordinator.domain.changes import Step
from coordinator.metrics.meters import Meters
from coordinator.store.store import Store
from coordinator.store.ways import JobWay

log = structlog.get_logger()

_LATE_SECONDS: Final = 1.0
"""So long after a job's own word the last notes of its way are on disk, also those of other coordinators."""


class Observer:
    def __init__(self, store: Store, meters: Meters) -> None:
        self._store = store
        self._meters = meters
        self._began: set[str] = set()
        self._ended: set[str] = set()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        reading = asyncio.create_task(self._read_for_ever())
        try:
            async for entry in self._store.feed.watch():
                if entry.step is Step.RUNNING:
                    self._began.add(entry.job_id)
                elif entry.step is Step.COMPLETED:
                    self._ended.add(entry.job_id)
                else:
                    continue
                self._news.set()
        finally:
            reading.cancel()

    async def _read_for_ever(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(_LATE_SECONDS)
            self._news.clear()
            began, self._began = self._began, set()
            ended, self._ended = self._ended, set()
            try:
                await self._observe(began, self._meters.began)
                await self._observe(ended, self._meters.ended)
            except Exception as error:  # noqa: BLE001 - the loop's edge: these few are not measured
                log.warning("jobs could not be measured", jobs=len(began | ended), error=str(error))

    async def _observe(self, job_ids: set[str], observe: Callable[[JobWay], None]) -> None:
        if not job_ids:
            return
        await self._store.notes.flush()
        for way in await self._store.ways(job_ids):
            observe(way)
