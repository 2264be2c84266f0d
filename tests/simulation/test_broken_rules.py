"""Each rule of the simulation is shown to bite: the coordinator is broken on purpose, and the rule must say so.

A break is a change that a person could make by mistake; of the first seeds that can show it, one must.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from typing import Any, Final
from unittest import mock

import msgspec
import pytest

from coordinator.domain import absence, sightings
from coordinator.domain.changes import Phase
from coordinator.domain.fleet import Host, Pool
from coordinator.domain.instance import Instance
from coordinator.domain.job import Job, JobEvent
from coordinator.domain.planning import leaving, spare
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.demand import Cover
from coordinator.domain.planning.draft import Draft
from coordinator.domain.planning.holds import Holds
from coordinator.domain.reconcile import Claim
from coordinator.domain.resources import Resources
from coordinator.engine import engine, lead
from coordinator.engine.budgets import Budgets
from coordinator.engine.claims import Claims
from coordinator.engine.local import LocalExecutor
from coordinator.engine.registrar import Registrar
from coordinator.fleet import wire
from coordinator.store import planning
from coordinator.store.instances import PhaseFact
from coordinator.store.ledger import Ledger
from tests.simulation.world.scenario import Faults, HostSpec, JobSpec, Kind, PoolSpec, Repository, Scenario, of_seed
from tests.simulation.world.world import run

Patch = AbstractContextManager[Any]
MOST_SEEDS: Final = 100
put = mock.patch.object


def of_kind(kind: Kind) -> list[Scenario]:
    return [scenario for scenario in map(of_seed, range(MOST_SEEDS)) if scenario.kind is kind]


def with_late_webhooks() -> list[Scenario]:
    """People cancel jobs, and the forge tells late which of the others have begun: what seems idle may be busy."""
    return [
        Scenario(
            seed,
            Kind.CHAOS,
            (Repository("octo/app", "one"),),
            (PoolSpec("pool-0", "octo/app", ("linux",), max_runners=10),),
            (HostSpec("host-0", 16, 65536),),
            tuple(JobSpec(float(n), "octo/app", ("linux",), 900.0) for n in range(8)),
            Faults(webhook_seconds=900.0, cancelled=0.5, until=2400.0),
        )
        for seed in range(20)
    ]


def with_long_jobs() -> list[Scenario]:
    """Jobs go on while the agent is away for longer than the lease, and while the database forgets their machines."""
    return [
        Scenario(
            seed,
            Kind.CHAOS,
            (Repository("octo/app", "one"),),
            (PoolSpec("pool-0", "octo/app", ("linux",), max_runners=10),),
            (HostSpec("host-0", 16, 65536),),
            tuple(JobSpec(n * 5.0, "octo/app", ("linux",), 1500.0) for n in range(6)),
            Faults(absences=2, kills=2, forgotten=2, until=1200.0),
        )
        for seed in range(10)
    ]


def jobs_are_forgotten() -> Iterable[Patch]:
    """Whichever net brings them: what one lets through another would find."""
    real = Ledger.record

    async def record(self: Ledger, event: JobEvent) -> Job | None:
        return await real(self, event) if event.key.forge_job_id % 5 else None

    yield put(Ledger, "record", record)


def no_reason_is_given() -> Iterable[Patch]:
    yield put(engine, "why_waiting", lambda *_, **__: "")


def machines_are_deleted_on_paper_only() -> Iterable[Patch]:
    async def delete(self: LocalExecutor, instance: Instance) -> None:
        now = datetime(2030, 1, 1, tzinfo=UTC)
        await self._store.instances.record_phase(PhaseFact(instance.host, instance.id, Phase.DELETED, now))

    yield put(LocalExecutor, "delete", delete)


def hosts_are_not_heard_when_a_machine_is_gone() -> Iterable[Patch]:
    heard = {number: phase for number, phase in wire.PHASES.items() if phase is not Phase.DELETED}
    yield put(wire, "PHASES", heard)


def runners_are_left_at_the_forge() -> Iterable[Patch]:
    rule = sightings.FORGE[sightings.Runner.GONE, sightings.AtForge.ABSENT]
    yield put(Registrar, "forget", mock.AsyncMock(return_value=None))
    yield mock.patch.dict(sightings.FORGE, {key: rule for key in sightings.FORGE if key[0] is sightings.Runner.GONE})


def nobody_asks_whether_a_runner_is_busy() -> Iterable[Patch]:
    yield put(Registrar, "may_go", mock.AsyncMock(return_value=True))


def pools_and_quotas_have_no_end() -> Iterable[Patch]:
    yield put(Draft, "_refusal", lambda *_: None)


def pools_have_no_end_when_plans_are_committed_either() -> Iterable[Patch]:
    yield from pools_and_quotas_have_no_end()
    yield put(planning, "_still_right", lambda _, creates, __: list(creates))


def hosts_have_no_end() -> Iterable[Patch]:
    real = Board.put_host

    def put_host(self: Board, host: Host) -> None:
        real(self, msgspec.structs.replace(host, capacity=Resources(1000, 2**20, 2**20)))

    yield put(Board, "put_host", put_host)


def devices_have_no_end() -> Iterable[Patch]:
    real = Board.put_host

    def put_host(self: Board, host: Host) -> None:
        plenty = msgspec.structs.replace(host.capacity, devices=(("gpu", 1000),))
        real(self, msgspec.structs.replace(host, capacity=plenty))

    yield put(Board, "put_host", put_host)


def hosts_and_strangers_bear_everything() -> Iterable[Patch]:
    yield put(Draft, "_unsuited", lambda *_: "")


def clouds_make_everything_at_once() -> Iterable[Patch]:
    yield put(Draft, "_in_cloud", lambda *_: "")


def registrations_are_not_counted() -> Iterable[Patch]:
    yield put(Budgets, "spend", lambda *_: None)


def creates_are_sent_to_every_host() -> Iterable[Patch]:
    real = LocalExecutor.create

    async def create(self: LocalExecutor, instance: Instance, pool: Pool) -> None:
        for host in sorted(self._links.hosts()):
            self.resend(instance.id)
            await real(self, msgspec.structs.replace(instance, host=host), pool)

    yield put(LocalExecutor, "create", create)


def coming_machines_do_not_count() -> Iterable[Patch]:
    yield put(Board, "cover_of", lambda *_: Cover())


def what_is_idle_stays() -> Iterable[Patch]:
    yield put(spare, "_surplus", lambda _: ())


def weights_are_ignored() -> Iterable[Patch]:
    yield put(Board, "share", lambda *_: 0.0)


def starving_jobs_wait_on() -> Iterable[Patch]:
    real = Draft._turn

    def turn(self: Draft, *job: Any) -> Any:
        self._starved_before = datetime.min.replace(tzinfo=UTC)
        return real(self, *job)

    yield put(Draft, "_turn", turn)


def nothing_is_kept_for_those_that_starve() -> Iterable[Patch]:
    yield put(Holds, "add", lambda *_: None)


def lost_hosts_keep_their_rows() -> Iterable[Patch]:
    yield put(leaving, "retires", lambda _: ())


def what_is_missing_is_counted_on() -> Iterable[Patch]:
    yield put(Board, "_count_on", lambda *_, **__: None)


def drains_stop_what_is_busy_without_a_deadline() -> Iterable[Patch]:
    key = absence.Emptying.DRAINING, absence.Doing.BUSY
    yield mock.patch.dict(absence.OF_DRAIN, {key: absence.Fate.STOP})


def drains_have_no_end() -> Iterable[Patch]:
    yield put(leaving, "drained", lambda _: ())


def closed_hosts_are_open() -> Iterable[Patch]:
    yield put(Host, "closed", property(lambda host: "" if host.connected else "is not connected"))
    yield put(planning, "_still_right", lambda _, creates, __: list(creates))


def strays_are_destroyed_unasked() -> Iterable[Patch]:
    yield put(Claims, "of", mock.AsyncMock(return_value=Claim.FREE))


def busy_runners_of_lost_hosts_end_and_are_destroyed_unasked() -> Iterable[Patch]:
    yield mock.patch.dict(absence.OF_ABSENCE, {(absence.Presence.LOST, absence.Doing.BUSY): absence.Fate.END})
    yield from strays_are_destroyed_unasked()


def the_planner_fails() -> Iterable[Patch]:
    yield put(lead, "plan_on", mock.Mock(side_effect=ValueError("broken")))


@pytest.mark.parametrize(
    ("broken", "rule", "part", "where"),
    [
        (jobs_are_forgotten, "every queued job has capacity or a reason", "", Kind.CHAOS),
        (no_reason_is_given, "every queued job has capacity or a reason", "without a reason", Kind.CHAOS),
        (machines_are_deleted_on_paper_only, "no machine without a row", "", Kind.CALM),
        (hosts_are_not_heard_when_a_machine_is_gone, "no row without a machine", "", Kind.CALM),
        (runners_are_left_at_the_forge, "no registration without a machine", "", Kind.CHAOS),
        (nobody_asks_whether_a_runner_is_busy, "no busy runner is killed", "", with_late_webhooks),
        (pools_and_quotas_have_no_end, "no limit is exceeded", "quota", Kind.CHAOS),
        (pools_have_no_end_when_plans_are_committed_either, "no limit is exceeded", "max_runners", Kind.CHAOS),
        (hosts_have_no_end, "no limit is exceeded", "a host's capacity", Kind.CHAOS),
        (devices_have_no_end, "no limit is exceeded", "a host's devices", Kind.CHAOS),
        (hosts_and_strangers_bear_everything, "no limit is exceeded", "creates at once: host", Kind.CHAOS),
        (hosts_and_strangers_bear_everything, "no limit is exceeded", "strangers", Kind.CHAOS),
        (clouds_make_everything_at_once, "no limit is exceeded", "creates at once: cloud", Kind.CHAOS),
        (registrations_are_not_counted, "no limit is exceeded", "registrations", Kind.CHAOS),
        (creates_are_sent_to_every_host, "nothing is created twice", "", Kind.CALM),
        (coming_machines_do_not_count, "exactly one machine for each job", "", Kind.CALM),
        (what_is_idle_stays, "no machine is kept for nothing", "", with_late_webhooks),
        (weights_are_ignored, "shares are fair", "", Kind.STORM),
        (starving_jobs_wait_on, "nobody starves", "was made for", Kind.STARVING),
        (nothing_is_kept_for_those_that_starve, "nobody starves", "without end", Kind.STARVING),
        (lost_hosts_keep_their_rows, "no row without a machine", "", Kind.CHAOS),
        (drains_stop_what_is_busy_without_a_deadline, "no busy runner is killed", "", Kind.CHAOS),
        (drains_have_no_end, "a drain ends", "", Kind.CHAOS),
        (closed_hosts_are_open, "closed hosts are given nothing", "drained", Kind.CHAOS),
        (closed_hosts_are_open, "closed hosts are given nothing", "short of disk", Kind.CHAOS),
        (strays_are_destroyed_unasked, "no busy runner is killed", "", with_long_jobs),
        (busy_runners_of_lost_hosts_end_and_are_destroyed_unasked, "no busy runner is killed", "", with_long_jobs),
        (the_planner_fails, "the coordinator does not fail", "planning failed", Kind.CALM),
    ],
)
def test_a_break_is_found(broken: Any, rule: str, part: str, where: Kind | Callable[[], list[Scenario]]) -> None:
    scenarios = of_kind(where) if isinstance(where, Kind) else where()
    with ExitStack() as stack:
        for patch in broken():
            stack.enter_context(patch)
        for scenario in scenarios:
            if any(one.rule == rule and part in one.text for one in run(scenario).violations):
                return
    pytest.fail(f"{len(scenarios)} runs did not show that '{rule}' is broken")


def without_a_host() -> Scenario:
    """A host is gone for good while it makes the machines of jobs, and another one has room."""
    return Scenario(
        0,
        Kind.CHAOS,
        (Repository("octo/app", "one"),),
        (PoolSpec("pool-0", "octo/app", ("linux",), max_runners=4),),
        (HostSpec("host-0", 16, 65536), HostSpec("host-1", 16, 65536)),
        tuple(JobSpec(float(n), "octo/app", ("linux",), 60.0) for n in range(2)),
        Faults(host_losses=1, until=4.0),
        served_within=120.0,
    )


def test_jobs_wait_for_machines_of_a_missing_host_when_the_planner_counts_on_them() -> None:
    scenarios = [msgspec.structs.replace(without_a_host(), seed=seed) for seed in range(8)]
    assert not any(run(scenario).violations for scenario in scenarios)
    with ExitStack() as stack:
        for patch in what_is_missing_is_counted_on():
            stack.enter_context(patch)
        broken = [one.rule for scenario in scenarios for one in run(scenario).violations]
    assert "nobody waits for a host that is missing" in broken


def test_late_webhooks_and_long_jobs_alone_break_nothing() -> None:
    for scenario in [*with_late_webhooks()[:5], *with_long_jobs()[:5]]:
        assert not run(scenario).violations
