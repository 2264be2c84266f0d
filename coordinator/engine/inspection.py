"""One look at what a forge or a cloud lists, and what is done about what `domain/sightings` finds in it."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from coordinator.domain import sightings
from coordinator.domain.changes import Step
from coordinator.domain.fleet import Pool
from coordinator.domain.instance import Instance
from coordinator.domain.job import Job, JobEvent, JobStatus
from coordinator.domain.sightings import (
    AtForge,
    InCloud,
    ListedMachine,
    ListedRunner,
    Sight,
    Suspicion,
    Verdict,
)
from coordinator.engine.registrar import Registrar
from coordinator.forges.contract import ForgeRefused, ForgeRunner
from coordinator.store.store import Store
from providers.exec.provider import ExecProvider
from providers.exec.spec import CloudInstance

log = structlog.get_logger()

_OFFLINE: Final = "offline"
_COMPLETED: Final = "completed"
_STOPPED: Final = "stopped"


class Inspection:
    """Remembers what is suspected of each entity and pool. A listing that fails raises, and changes nothing."""

    def __init__(
        self,
        store: Store,
        registrar: Registrar,
        clouds: Mapping[str, ExecProvider],
        host_lease: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._host_lease = host_lease
        self._store = store
        self._registrar = registrar
        self._clouds = clouds
        self._clock = clock
        self._suspected: dict[str, dict[str, Suspicion]] = {}  # by entity or pool

    async def entity(self, entity_id: str) -> None:
        """Compare the forge's list of an entity's runners with its instances.

        Raises:
            ForgeError: nothing was learned, or not everything could be done; the next look does the rest.
        """
        before = await self._store.rolls.of_entity(entity_id)
        runners = await self._registrar.ask(entity_id, lambda forge: forge.runners())
        known = await self._with_listed(before, [runner.name for runner in runners])
        lost = await self._store.upkeep.lost(self._clock() - self._host_lease)
        await self._judge(entity_id, sightings.at_forge(entity_id, known, map(_runner, runners), lost), None)

    async def pool(self, pool_id: str) -> None:
        """Compare a cloud's list of a pool's machines with its instances.

        Raises:
            ProviderError, ForgeError: as for `entity`.
        """
        pool = await self._store.catalog.pool(pool_id)
        if pool.provider not in self._clouds:
            return
        before = await self._store.rolls.of_pool(pool_id)
        machines = await self._clouds[pool.provider].list(pool.id, _extra_specs(pool) or None)
        known = await self._with_listed(before, [machine.name for machine in machines])
        await self._judge(pool_id, sightings.in_cloud(pool, known, map(_machine, machines)), pool)

    def forget(self, subject: str) -> None:
        """Nothing is suspected of an entity or pool that is not looked at any more."""
        self._suspected.pop(subject, None)

    async def _with_listed(self, before: list[Instance], names: Iterable[str]) -> list[Instance]:
        """The instances from before the listing, and what is known now of the other names in it.

        What came while it was read is thereby known, and not missed in it.
        """
        return [*before, *await self._store.rolls.named(set(names) - {instance.name for instance in before})]

    async def _judge(self, subject: str, sights: Iterable[Sight], pool: Pool | None) -> None:
        before = self._suspected.get(subject, {})
        self._suspected[subject], proven = sightings.judge(before, sights, self._clock())
        refused: ForgeRefused | None = None
        for sight in proven:
            try:
                await self._act(sight, subject, pool)
            except ForgeRefused as error:  # of this one thing; what else was found is none of its business
                log.warning("the forge refuses", runner=sight.name, error=str(error))
                refused = refused or error
        if refused is not None:
            raise refused

    async def _act(self, sight: Sight, subject: str, pool: Pool | None) -> None:
        fresh = await self._store.rolls.named([sight.name])
        if fresh != ([sight.instance] if sight.instance else []):
            return  # it has changed since it was listed: the next listing tells
        log.info("found by a listing", runner=sight.name, verdict=sight.rule.verdict, reason=sight.rule.reason)
        match sight.rule.verdict, sight.instance, sight.listed:
            case Verdict.MARK_ACTIVE, Instance() as instance, _:
                await self._store.instances.mark_busy(instance.id)
            case Verdict.RETIRE, Instance() as instance, _:
                await self._let_go(instance, sight.rule.reason, Step.RETIRED)
            case Verdict.VANISHED, Instance() as instance, _:
                await self._let_go(instance, sight.rule.reason, Step.VANISHED)
            case Verdict.ASK_ABOUT_JOB, Instance() as instance, _:
                await self._ask_about_job(instance, sight.lasted)
            case Verdict.END_STRANDED, Instance() as instance, _:
                await self._ask_about_job(instance, sightings.LONG_ABSENT, stranded=True)
            case Verdict.REMOVE_RUNNER, _, ListedRunner() as runner:
                await self._registrar.remove(subject, runner.id)
            case Verdict.DESTROY, _, ListedMachine() as machine if pool is not None:
                await self._destroy(machine, pool)
            case Verdict.DESTROY_TWIN, _, ListedMachine() as machine if pool is not None:
                log.warning("destroying a second machine of one instance", machine=machine.name, id=machine.provider_id)
                await self._clouds[pool.provider].delete(machine.provider_id, pool.id, _extra_specs(pool) or None)

    async def _let_go(self, instance: Instance, reason: str, step: Step) -> None:
        if await self._registrar.may_go(instance):
            vanished = step is Step.VANISHED
            await self._store.instances.retire(instance.id, reason, step=step, failed=vanished, fenced=True)
        else:
            log.warning("kept, for the forge says that it has a job", runner=instance.name, reason=reason)
            await self._store.instances.mark_busy(instance.id)

    async def _ask_about_job(self, instance: Instance, absent_for: timedelta, *, stranded: bool = False) -> None:
        """Only the forge can say that a job has ended; its machine is kept for as long as it may still run one.

        `stranded`: its host is lost. Its machine cannot tell whether it runs, and keeping its row keeps it no longer.
        """
        job = await self._store.history.job(instance.job_id) if instance.job_id else None
        number = job.key.forge_job_id if job else 0
        try:
            told = await self._registrar.ask(instance.entity_id, lambda forge: forge.job(number)) if job else None
        except ForgeRefused as error:
            log.warning("its runner is not at the forge, which refuses", runner=instance.name, error=str(error))
            if not stranded:
                return
            told = None
        if told is None and absent_for >= sightings.LONG_ABSENT:
            await self._give_up(instance)
            return
        if job is None or told is None or told.status != _COMPLETED:
            said = "nothing of its job" if told is None else f"its job is {told.status}"
            log.warning("its runner is not at the forge, which says", runner=instance.name, said=said)
            return
        # The ledger takes the forge's word as if its webhook had come: the job ends, and its instance with it.
        await self._store.ledger.record(_ended(job, instance.name, told.conclusion or "", self._clock()))

    async def _give_up(self, instance: Instance) -> None:
        """Nothing is known of its job, and its runner has long been in no list: if not by its name either, it goes."""
        if await self._registrar.ask(instance.entity_id, lambda forge: forge.runner_named(instance.name)) is None:
            reason = "its runner has long not been at the forge any more, and nobody tells of its job"
            await self._let_go(instance, reason, Step.RETIRED)

    async def _destroy(self, machine: ListedMachine, pool: Pool) -> None:
        """Destroy a machine without an instance, unless a runner in it has a job."""
        runner = await self._registrar.ask(pool.entity_id, lambda forge: forge.runner_named(machine.name))
        if runner is not None and not await self._registrar.remove(pool.entity_id, runner.id):
            log.warning("a machine that nobody knows is kept: its runner has a job", machine=machine.name)
            return
        log.warning("destroying a machine without an instance", machine=machine.name, pool=pool.name)
        await self._clouds[pool.provider].delete(machine.provider_id, pool.id, _extra_specs(pool) or None)


def _ended(job: Job, runner_name: str, conclusion: str, now: datetime) -> JobEvent:
    return JobEvent(
        key=job.key,
        status=JobStatus.COMPLETED,
        labels=job.labels,
        name=job.name,
        workflow=job.workflow,
        run_id=job.run_id,
        received_at=now,
        runner_name=runner_name,
        conclusion=conclusion,
        html_url=job.html_url,
    )


def _runner(runner: ForgeRunner) -> ListedRunner:
    online = AtForge.OFFLINE if runner.status == _OFFLINE else AtForge.ONLINE
    return ListedRunner(runner.id, runner.name, AtForge.BUSY if runner.busy else online)


def _machine(machine: CloudInstance) -> ListedMachine:
    state = InCloud.STOPPED if machine.status == _STOPPED else InCloud.THERE
    return ListedMachine(machine.provider_id, machine.name, state)


def _extra_specs(pool: Pool) -> dict[str, Any]:
    return msgspec.json.decode(pool.extra_specs, type=dict[str, Any])
