"""Deleting what is older than the retention, slowly, beside everything else."""

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from coordinator.store.retention import Pruned
from coordinator.store.store import Store

log = structlog.get_logger()

_FIRST: Final = timedelta(minutes=1)
"""After the start: one that is started again and again prunes all the same."""

_EVERY: Final = timedelta(hours=1)
_BETWEEN_BATCHES: Final = timedelta(seconds=0.25)
"""Webhooks must not wait for several in a row."""


async def prune_for_ever(store: Store, keep: timedelta) -> None:
    """Only the coordinator that plans does it."""
    wait = _FIRST
    while True:
        await asyncio.sleep(wait.total_seconds())
        wait = _EVERY
        if store.lease.number is None:
            continue
        try:
            done = await prune(store, keep, _BETWEEN_BATCHES)
        except Exception:
            log.exception("what is old could not be deleted")
            continue
        if any(done):
            log.info("deleted what is older than the retention", jobs=done.jobs, instances=done.instances)


async def prune(store: Store, keep: timedelta, pause: timedelta) -> Pruned:
    """Delete all that is old now, with a pause after each batch."""
    jobs = instances = 0
    while (batch := await store.retention.prune(keep)) is not None:
        jobs, instances = jobs + batch.jobs, instances + batch.instances
        await asyncio.sleep(pause.total_seconds())
    return Pruned(jobs, instances)
