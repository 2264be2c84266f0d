"""The net below the webhooks: forges are asked for jobs that wait, and for those of which nothing was heard for long.

Only the coordinator that plans asks, for one repository at a time with each credential, and not while a forge wants to
be left alone. What is found goes into the ledger as a webhook would.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from coordinator.domain import polling
from coordinator.domain.fleet import EntityKind
from coordinator.domain.job import Job, JobEvent, JobKey, JobStatus
from coordinator.domain.labels import Labels, labels
from coordinator.domain.polling import Absence
from coordinator.engine.budgets import Budgets
from coordinator.engine.registrar import Registrar
from coordinator.forges.contract import ForgeError, ForgeJob
from coordinator.store.store import Store

log = structlog.get_logger()

_TURN: Final = timedelta(seconds=5)
"""Between two polls with one credential: at most 720 an hour, however many repositories it has."""

_LOOK_AROUND: Final = timedelta(minutes=1)
_OLDEST: Final = 1000  # open jobs of a repository that are compared with what its forge lists
_GONE: Final = "gone"  # the conclusion of jobs that the forge does not have any more
_STATUSES: Final = frozenset(status.value for status in JobStatus)


class _Repository(msgspec.Struct):
    """One that is asked for."""

    credentials_id: str
    endpoint_id: str
    pools: set[Labels]
    due: datetime
    failures: int = 0
    runs: dict[int, datetime] = {}  # when each open run was asked for
    jobs: dict[str, datetime] = {}  # when each doubtful job was asked for
    absences: dict[str, Absence] = {}


class Poller:
    def __init__(
        self,
        store: Store,
        registrar: Registrar,
        budgets: Budgets,
        every: timedelta,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._registrar = registrar
        self._budgets = budgets
        self._every = every
        self._clock = clock
        self._chance = chance
        self._repositories: dict[str, _Repository] = {}  # by entity
        self._look_around_at: datetime | None = None
        self._polls: dict[str, asyncio.Task[None]] = {}  # by credentials

    async def run(self) -> None:
        """For ever. The first poll of a repository comes as soon as this coordinator plans, or hears of it."""
        while True:
            try:
                if self._store.lease.number is None:
                    self._repositories.clear()
                    self._look_around_at = None
                else:
                    await self._look_around()
                    self._begin()
            except Exception:
                log.exception("the poller does not know whom to ask")
            await asyncio.sleep(min(_TURN, self._every).total_seconds())

    async def close(self) -> None:
        polls = list(self._polls.values())
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    async def _look_around(self) -> None:
        """Whom to ask: repositories with pools, and those with jobs that have not ended."""
        now = self._clock()
        if self._look_around_at is not None and now < self._look_around_at:
            return
        served: dict[str, set[Labels]] = {entity_id: set() for entity_id in await self._store.rolls.with_open_jobs()}
        for pool in await self._store.catalog.pools():
            served.setdefault(pool.entity_id, set()).add(pool.labels)
        for entity_id in self._repositories.keys() - served.keys():
            del self._repositories[entity_id]
        for entity_id, pools in sorted(served.items()):
            entity = (await self._store.catalog.forge_access(entity_id)).entity
            if entity.kind is not EntityKind.REPOSITORY:
                continue  # forges list the jobs of single repositories alone
            known = self._repositories.setdefault(entity_id, _Repository("", entity.endpoint_id, pools, now))
            known.credentials_id, known.pools = entity.credentials_id, pools
        self._look_around_at = now + min(_LOOK_AROUND, self._every)

    def _begin(self) -> None:
        """Start what is due: with each credential that is free, the poll that is overdue the most."""
        now = self._clock()
        by_due = sorted(self._repositories.items(), key=lambda one: (one[1].due, one[0]))
        for entity_id, repository in by_due:
            name = repository.credentials_id
            if repository.due > now:
                return
            if name not in self._polls and self._budgets.paused_until(name, now) is None:
                work = self._poll_and_date(entity_id, repository, name)
                self._polls[name] = asyncio.create_task(work, name=f"poll {entity_id}")

    async def _poll_and_date(self, entity_id: str, repository: _Repository, credentials_id: str) -> None:
        try:
            budget_left = await self._poll(entity_id, repository)
            repository.failures = 0
            wait = polling.pause(self._every, budget_left)
        except Exception as error:
            repository.failures += 1
            wait = polling.rest(self._every, repository.failures)
            if isinstance(error, ForgeError):
                log.warning("a forge does not say which jobs wait", entity=entity_id, error=str(error))
            else:
                log.exception("a poll has failed", entity=entity_id)
        finally:
            del self._polls[credentials_id]
        repository.due = self._clock() + wait * (0.8 + 0.2 * self._chance())

    async def _poll(self, entity_id: str, repository: _Repository) -> float:
        """Ask for open runs, their jobs, and jobs that are not among them; returns what the rate limit has left."""
        runs = await self._registrar.ask(entity_id, lambda forge: forge.open_runs())
        repository.runs = {run: time for run, time in repository.runs.items() if run in set(runs.ids)}
        listed: list[JobEvent] = []
        for run_id in polling.first_to_ask(runs.ids, repository.runs, polling.MOST_RUNS):
            jobs = await self._registrar.ask(entity_id, lambda forge, run_id=run_id: forge.jobs_of_run(run_id))  # type: ignore[misc]
            repository.runs[run_id] = now = self._clock()
            listed += self._events(jobs, entity_id, repository.endpoint_id, now)
        await self._take_in(listed, repository.pools)
        await self._ask_for_the_doubtful(entity_id, repository, {event.key for event in listed})
        return runs.budget_left

    async def _take_in(self, events: Iterable[JobEvent], pools: set[Labels]) -> None:
        told = list(events)
        known = await self._store.rolls.statuses([event.key for event in told])
        fresh = polling.news(told, known, pools)
        for event in fresh:
            log.warning("found by asking: no webhook has told of it", job=event.key.forge_job_id, status=event.status)
        await asyncio.gather(*map(self._store.ledger.record, fresh))

    async def _ask_for_the_doubtful(self, entity_id: str, repository: _Repository, listed: set[JobKey]) -> None:
        now = self._clock()
        oldest = await self._store.rolls.open_jobs(entity_id, now - polling.DOUBT, _OLDEST)
        doubtful = {job.id: job for job in polling.doubtful(oldest, listed, now)}
        repository.jobs = {job: time for job, time in repository.jobs.items() if job in doubtful}
        repository.absences = {job: absence for job, absence in repository.absences.items() if job in doubtful}
        for job_id in polling.first_to_ask(doubtful, repository.jobs, polling.MOST_JOBS):
            job = doubtful[job_id]
            number = job.key.forge_job_id
            told = await self._registrar.ask(entity_id, lambda forge, number=number: forge.job(number))  # type: ignore[misc]
            repository.jobs[job_id] = now = self._clock()
            if told is None:
                await self._miss(job, repository, now)
                continue
            repository.absences.pop(job_id, None)
            event = _event(told, job.key, now)
            if event is not None:
                await self._take_in([event], repository.pools)

    async def _miss(self, job: Job, repository: _Repository, now: datetime) -> None:
        """The forge has no such job, though it lists this repository's."""
        absence = repository.absences[job.id] = polling.missed(repository.absences.get(job.id), now)
        if not polling.is_gone(absence, now):
            return
        log.warning("the forge has not had this job for long: it has ended", job=job.key.forge_job_id)
        ended = ForgeJob(JobStatus.COMPLETED.value, _GONE, run_id=job.run_id, labels=sorted(job.labels), name=job.name)
        event = _event(ended, job.key, now)
        if event is not None:
            await self._store.ledger.record(event)

    def _events(self, jobs: Iterable[ForgeJob], entity_id: str, endpoint_id: str, now: datetime) -> list[JobEvent]:
        keyed = ((job, JobKey(endpoint_id, job.id, job.run_attempt, entity_id)) for job in jobs)
        return [event for job, key in keyed if (event := _event(job, key, now)) is not None]


def _event(job: ForgeJob, key: JobKey, now: datetime) -> JobEvent | None:
    """What a webhook would say; None for a state that says nothing of demand, and for a job that wants no runner."""
    if job.status not in _STATUSES or not (job.labels or job.status == JobStatus.COMPLETED):
        return None
    status = JobStatus(job.status)
    begun = status in (JobStatus.IN_PROGRESS, JobStatus.COMPLETED)
    return JobEvent(
        key=key,
        status=status,
        labels=labels(job.labels),
        name=job.name,
        workflow=job.workflow_name or "",
        run_id=job.run_id,
        received_at=now,
        runner_name=(job.runner_name or "") if begun else "",
        conclusion=job.conclusion or "",
        html_url=job.html_url or "",
    )
