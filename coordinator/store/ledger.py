"""The ledger of demand: webhooks are folded into jobs, and jobs into the instances that ran them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import sqlalchemy as sa
import structlog

from coordinator.domain import tries
from coordinator.domain.changes import Step, on_job
from coordinator.domain.instance import Instance
from coordinator.domain.job import Job, JobEvent, JobKey, JobStatus, fold
from coordinator.domain.timeline import Entry
from coordinator.store import changed as changes
from coordinator.store import instance_rows, timelines
from coordinator.store.batch import Batcher
from coordinator.store.database import Database
from coordinator.store.feed import Feed
from coordinator.store.retrying import retried
from coordinator.store.rows import from_job, to_job
from coordinator.store.schema import jobs
from coordinator.store.timelines import Notes
from hostler.errors import HostlerError

log = structlog.get_logger()

_STEP: Final = {
    JobStatus.WAITING: Step.WEBHOOK,
    JobStatus.QUEUED: Step.WEBHOOK,
    JobStatus.IN_PROGRESS: Step.RUNNING,
    JobStatus.COMPLETED: Step.COMPLETED,
}


class EntityGone(HostlerError):
    """An event of an entity that is not declared any more."""

    code = "entity_gone"


class Ledger:
    """Records job events. Events that arrive together share a commit."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        notes: Notes,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        backoff: Callable[[], Awaitable[timedelta]],
    ) -> None:
        """`backoff`: how long a new job waits before a machine is made for it."""
        self._backoff = backoff
        self._database = database
        self._feed = feed
        self._notes = notes
        self._clock = clock
        self._new_id = new_id
        self._batcher: Batcher[JobEvent, Job] = Batcher(self._write)

    async def record(self, event: JobEvent) -> Job:
        """Fold an event into the ledger; returns when it is on disk. Late and repeated events change nothing.

        Raises:
            EntityGone: whose job it is was removed since it was looked up.
        """
        try:
            return await self._batcher.submit(event)
        except sa.exc.IntegrityError as error:  # of foreign keys: what is not unique is tried again
            raise EntityGone(f"the entity {event.key.entity_id} is not declared any more") from error

    @retried
    async def _write(self, events: Sequence[JobEvent]) -> Sequence[Job]:
        backoff = await self._backoff()
        folded, new, entries = await self._database.at_once(
            lambda connection: self._record(connection, events, backoff)
        )
        committed = self._clock()
        self._feed.publish(entries)
        self._notes.add(Entry(Step.COMMITTED, committed, job.id) for job in new if job.status is JobStatus.QUEUED)
        return folded

    def _record(
        self, connection: sa.Connection, events: Sequence[JobEvent], backoff: timedelta
    ) -> tuple[list[Job], list[Job], list[Entry]]:
        """The jobs after each event, those of them that are new, and what is told of them."""
        keys = {event.key for event in events}
        found = _jobs_by_ids(connection, keys)
        known = {key: job for key, job in found.items() if key in keys}
        new, changed, entries = self._fold_all(known, events)
        for key in new if backoff else ():
            known[key] = tries.not_before(known[key], backoff)
        _bind(connection, known, keys)
        # Inserted in one order by all coordinators, so that none waits for one that waits for it.
        ordered = sorted(new, key=msgspec.structs.astuple)
        _warn_of_twins(found, ordered)
        inserted = [known[key] for key in ordered]
        _save(connection, inserted, [known[key] for key in changed - new])
        timelines.append(connection, entries)
        return [known[event.key] for event in events], inserted, entries

    def _fold_all(
        self, known: dict[JobKey, Job], events: Iterable[JobEvent]
    ) -> tuple[set[JobKey], set[JobKey], list[Entry]]:
        new: set[JobKey] = set()
        changed: set[JobKey] = set()
        entries: list[Entry] = []
        for event in events:
            old = known.get(event.key)
            job = fold(old, event, self._new_id())
            if job is None:
                continue
            known[event.key] = job
            (changed if old else new).add(event.key)
            if old is None or old.status is not job.status:
                entries.append(Entry(_STEP[job.status], event.received_at, job.id, "", _detail(job)))
        return new, changed, entries


def _detail(job: Job) -> str:
    if job.status is JobStatus.COMPLETED:
        return job.conclusion
    return job.runner_name if job.status is JobStatus.IN_PROGRESS else ", ".join(sorted(job.labels))


# Built once: it is asked for every commit.
_KNOWN: Final = (
    sa.select(jobs)
    .where(
        jobs.c.endpoint_id.in_(sa.bindparam("endpoint_ids", expanding=True)),
        jobs.c.forge_job_id.in_(sa.bindparam("forge_job_ids", expanding=True)),
    )
    .order_by(jobs.c.id)
    .with_for_update()
)


def _jobs_by_ids(connection: sa.Connection, keys: Iterable[JobKey]) -> dict[JobKey, Job]:
    """The jobs of these ids at the forge: also those of other entities and attempts."""
    asked = {
        "endpoint_ids": list({key.endpoint_id for key in keys}),
        "forge_job_ids": list({key.forge_job_id for key in keys}),
    }
    return {job.key: job for job in map(to_job, connection.execute(_KNOWN, asked))}


def _warn_of_twins(found: Mapping[JobKey, Job], new: Sequence[JobKey]) -> None:
    """A forge gives an id once: of two entities that have it, one was renamed, or tells of jobs that it has not."""
    entities: dict[tuple[str, int], set[str]] = {}
    for key in [*found, *new]:
        entities.setdefault((key.endpoint_id, key.forge_job_id), set()).add(key.entity_id)
    for key in new:
        others = entities[key.endpoint_id, key.forge_job_id] - {key.entity_id}
        if others:
            log.warning(
                "two entities speak of a job of the same id; each has its own",
                forge_job_id=key.forge_job_id,
                entity=key.entity_id,
                others=sorted(others),
            )


def _bind(connection: sa.Connection, known: dict[JobKey, Job], keys: Iterable[JobKey]) -> None:
    """Tie jobs that run or ran to the instances whose runners took them; `known` gets the instances' ids."""
    # By entity too: two may claim a runner of one name in the same commit.
    begun: dict[tuple[str, str], list[JobKey]] = {}
    for key in sorted(keys, key=msgspec.structs.astuple):
        job = known[key]
        if job.runner_name and job.status in (JobStatus.IN_PROGRESS, JobStatus.COMPLETED):
            begun.setdefault((key.entity_id, job.runner_name), []).append(key)
    changed: list[Instance] = []
    for instance in instance_rows.by_names(connection, {name for _, name in begun}):
        now = instance
        for key in begun.get((instance.entity_id, instance.name), ()):
            bound = on_job(now, known[key], known[key].changed_at)
            if bound.job_id != known[key].id:
                continue  # it took another job: one machine, one job
            now = bound
            known[key] = msgspec.structs.replace(known[key], instance_id=instance.id)
        if now != instance:
            changed.append(now)
    instance_rows.save(connection, changed)


def _save(connection: sa.Connection, new: Sequence[Job], changed: Sequence[Job]) -> None:
    told = changes.of(connection)
    told.arrived.update((job.id, job) for job in new)
    told.jobs.update(job.id for job in changed)
    if new:
        connection.execute(sa.insert(jobs), [from_job(job) for job in new])
    if changed:
        connection.execute(
            _UPDATE, [{"key_id": job.id} | {f"new_{name}": getattr(job, name) for name in _MUTABLE} for job in changed]
        )


_MUTABLE: Final = ("status", "queued_at", "changed_at", "runner_name", "instance_id", "conclusion")
_UPDATE: Final = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("key_id"))
    .values({name: sa.bindparam(f"new_{name}") for name in _MUTABLE})
)
