"""Agents that hang with their streams open, and what is said or made twice, in simulated worlds."""

from unittest import mock

import msgspec

from coordinator.fleet import silence
from tests.simulation.world.scenario import CLOUD, Faults, HostSpec, JobSpec, Kind, PoolSpec, Repository, Scenario
from tests.simulation.world.world import Result, run


def with_an_agent_that_hangs(seed: int) -> Scenario:
    """One of two agents hangs while machines for jobs are given to it; the other host has room for all."""
    return Scenario(
        seed,
        Kind.CHAOS,
        (Repository("octo/app", "one"),),
        (PoolSpec("pool-0", "octo/app", ("linux",), max_runners=20),),
        (HostSpec("host-0", 16, 65536), HostSpec("host-1", 16, 65536)),
        tuple(JobSpec(float(n), "octo/app", ("linux",), 60.0) for n in range(8)),
        Faults(agent_hangs=1, until=6.0),
        # It is silent for 60 s, away for 30 s, and then its jobs get machines elsewhere.
        served_within=150.0,
    )


def rules(result: Result) -> set[str]:
    return {violation.rule for violation in result.violations}


def test_jobs_given_to_an_agent_that_hangs_get_machines_elsewhere() -> None:
    results = [run(with_an_agent_that_hangs(seed)) for seed in range(8)]
    assert not any(result.violations for result in results)
    assert sum(result.accidents["agent_hangs"] for result in results) == 8
    assert sum("nothing was heard" in line for result in results for line in result.log) >= 2


def test_they_wait_for_it_when_nobody_minds_its_silence() -> None:
    with mock.patch.object(silence, "cut_silent"):
        results = [run(with_an_agent_that_hangs(seed)) for seed in range(8)]
    assert "nobody waits for a host that is missing" in set().union(*map(rules, results))


def test_a_cloud_that_makes_two_machines_of_one_call_keeps_no_second_one() -> None:
    results = [run(with_twins(seed)) for seed in range(4)]
    assert not any(result.violations for result in results)
    assert sum(result.accidents["cloud_twin"] for result in results) >= 12
    assert any("destroying a second machine" in line for result in results for line in result.log)


def with_twins(seed: int) -> Scenario:
    return Scenario(
        seed,
        Kind.CHAOS,
        (Repository("octo/app", "one"),),
        (PoolSpec("pool-0", "octo/app", ("linux",), provider=CLOUD, max_runners=10),),
        (),
        tuple(JobSpec(n * 20.0, "octo/app", ("linux",), 300.0) for n in range(6)),
        Faults(cloud_twin=0.7, until=900.0),
        cloud_at_once=10,
    )


def test_what_is_said_again_long_after_its_acknowledgement_changes_nothing() -> None:
    quiet = msgspec.structs.replace(with_an_agent_that_hangs(1), faults=Faults(until=600.0), served_within=60.0)
    result = run(msgspec.structs.replace(quiet, faults=Faults(event_again=1.0, until=600.0)))
    assert not result.violations
    assert result.accidents["event_again"] > 4 * len(quiet.jobs)
    assert result.machines == run(quiet).machines == len(quiet.jobs)
