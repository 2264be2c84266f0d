"""The real coordinator in simulated worlds: whatever goes wrong, the rules hold. One test for each seed."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from coordinator.config import Planner
from coordinator.forges.contract import ForgeRefused
from tests.simulation.world import trace
from tests.simulation.world.cloud import CLOUD_FAULTS, SimClaims
from tests.simulation.world.forge import FORGE_FAULTS, SimForge
from tests.simulation.world.scenario import (
    CLOUD,
    REFUSED,
    TAKEN,
    UNIQUE,
    Faults,
    HostSpec,
    JobSpec,
    Kind,
    PoolSpec,
    Repository,
    Scenario,
    of_seed,
)
from tests.simulation.world.world import Result, run

SEEDS = 300
LEAST_OF_EACH = 10
ACCIDENTS = (
    {*Faults.__struct_fields__, "cuts, silent", *(f"forge {one}" for one in FORGE_FAULTS)}
    | {f"cloud {one}" for one in CLOUD_FAULTS}
) - {"forge_call", "cloud_call", "until"}
TRACE = Path(__file__).parents[1] / "fixtures/traces/small.jsonl"
ROOT = Path(__file__).parents[2]


def told(result: Result, how: str) -> str:
    broken = "\n".join(f"{violation.rule}: {violation.text}" for violation in result.violations)
    return f"{broken}\nsee what happened: python -m tests.simulation.world {how} --seed {result.seed} --verbose"


@pytest.fixture(scope="session")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes of a test run note which accidents each seed has seen."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "accidents"
    folder.mkdir(exist_ok=True)
    return folder


def note(folder: Path, result: Result) -> dict[str, int]:
    new = folder / f"{result.seed}-{os.getpid()}.new"
    new.write_bytes(msgspec.json.encode(result.accidents))
    new.replace(folder / str(result.seed))
    return result.accidents


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_rules_hold(seed: int, noted: Path) -> None:
    result = run(of_seed(seed))
    note(noted, result)
    assert not result.violations, told(result, "")


def test_every_accident_has_happened_many_times(noted: Path) -> None:
    """What counts is what something was there for. Seeds that have run in this test run are not run again."""
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        file = noted / str(seed)
        accidents = msgspec.json.decode(file.read_bytes(), type=dict[str, int]) if file.exists() else None
        seen.update(note(noted, run(of_seed(seed))) if accidents is None else accidents)
    assert set(seen) == ACCIDENTS
    rare = {name: count for name, count in sorted(seen.items()) if count < LEAST_OF_EACH}
    assert not rare, f"in {SEEDS} seeds: {dict(sorted(seen.items()))}"


def test_the_seeds_are_of_every_kind() -> None:
    scenarios = [of_seed(seed) for seed in range(SEEDS)]
    assert {scenario.kind for scenario in scenarios} == set(Kind)
    assert {pool.provider for scenario in scenarios for pool in scenario.pools} == {"simulated", "cloud"}
    assert sum(any(pool.min_idle for pool in scenario.pools) for scenario in scenarios) > SEEDS // 20
    starving = [scenario.pools[-1] for scenario in scenarios if scenario.kind is Kind.STARVING]
    assert {pool.flavor for pool in starving} == {"small", "large"}
    assert {pool.share_hosts for pool in starving} == {True, False}
    assert sum(scenario.registrations_per_minute > 0 for scenario in scenarios) > SEEDS // 20


def test_a_run_is_the_same_to_the_byte_whatever_the_order_of_sets() -> None:
    def output(hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "tests.simulation.world", "--seed", "20", "--count", "10", "--verbose"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE).stdout

    first, second = output("1"), output("4711")
    assert len(first) > 10_000
    assert first == second


def test_a_cloud_whose_answers_are_late_or_lost_costs_no_busy_runner() -> None:
    """What a create made is up, and its runner busy, before the create is known to have failed."""
    for seed in range(4):
        scenario = Scenario(
            seed,
            Kind.CHAOS,
            (Repository("octo/app", "one"),),
            (PoolSpec("pool-0", "octo/app", ("linux",), provider=CLOUD, max_runners=10),),
            (),
            tuple(JobSpec(n * 20.0, "octo/app", ("linux",), 600.0) for n in range(6)),
            Faults(cloud_call=0.6, kills=1, until=1200.0),
        )
        result = run(scenario)
        assert not result.violations, told(result, "")


@pytest.mark.parametrize("seconds", [30.0, 120.0])
def test_a_forge_that_refuses_for_a_while_costs_its_jobs_no_more_than_twice_that(seconds: float) -> None:
    real = SimForge._asked

    async def asked(self: SimForge, what: str) -> bool:
        lost = await real(self, what)
        if asyncio.get_running_loop().time() < seconds and what == "generate-jitconfig":
            raise ForgeRefused("HTTP 401 Bad credentials")
        return lost

    scenario = Scenario(
        1,
        Kind.CHAOS,
        (Repository("octo/app", "one"),),
        (PoolSpec("pool-0", "octo/app", ("linux",), max_runners=10),),
        (HostSpec("host-0", 16, 65536),),
        tuple(JobSpec(0.1 * n, "octo/app", ("linux",), 60.0) for n in range(8)),
        Faults(until=1.0),
        creates_per_host=16,
    )
    with mock.patch.object(SimForge, "_asked", asked):
        result = run(scenario)
    assert not result.violations, told(result, "")
    begun = [float(line.split()[0]) for line in result.log if " in_progress " in line]
    assert len(begun) == 8
    assert max(begun) < 2 * seconds + 60  # the last rest is at most as long as all before it; then the machines boot


@pytest.mark.parametrize("seed", range(6))
def test_every_job_is_served_within_a_poll_though_every_other_webhook_is_never_sent(seed: int) -> None:
    poll = Planner().poll_seconds
    scenario = Scenario(
        seed,
        Kind.CHAOS,
        (Repository("octo/app", "one"), Repository("octo/lib", "one")),
        (
            PoolSpec("pool-0", "octo/app", ("linux",), max_runners=10),
            PoolSpec("pool-1", "octo/lib", ("linux",), max_runners=10),
        ),
        (HostSpec("host-0", 32, 65536),),
        tuple(JobSpec(n * 40.0, "octo/app" if n % 3 else "octo/lib", ("linux",), 30.0) for n in range(20)),
        Faults(webhook_dropped=0.5, until=3600.0),
        creates_per_host=32,
    )
    result = run(scenario)
    assert not result.violations, told(result, "")
    lines = [line.split() for line in result.log if " of octo/" in line and " in_progress " in line]
    begun = {int(words[3]): float(words[0]) for words in lines}
    assert any("queued of job" in line and "is never sent" in line for line in result.log)
    assert any("found by asking" in line for line in result.log)
    assert len(begun) == len(scenario.jobs)
    for number, spec in enumerate(scenario.jobs, 1):
        waited = begun[number] - spec.time - 1.0
        assert waited < poll + 60, f"job {number} waited {waited:.0f} s; {told(result, '')}"


def cloudy(seed: int, names: str, *, elsewhere: bool) -> Scenario:
    """Coordinators are killed among their creates, and answers of the cloud are late, lost or wrong."""
    return Scenario(
        seed,
        Kind.CHAOS,
        (Repository("octo/app", "one"),),
        (PoolSpec("pool-0", "octo/app", ("linux",), provider=CLOUD, max_runners=10),),
        (),
        tuple(JobSpec(n * 15.0, "octo/app", ("linux",), 900.0) for n in range(8)),
        Faults(cloud_call=0.6, kills=8, until=900.0),
        cloud_at_once=10,
        cloud_names=names,
        elsewhere=elsewhere,
        appear_seconds=0.0 if elsewhere else 60.0,
    )


@pytest.mark.parametrize("names", [UNIQUE, REFUSED, TAKEN])
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_coordinator_lets_nothing_be_made_twice_whatever_the_cloud_makes_of_names(
    seed: int, names: str
) -> None:
    result = run(cloudy(seed, names, elsewhere=False))
    assert not result.violations, told(result, "")


def test_machines_would_be_made_twice_without_a_look_at_what_former_lives_left() -> None:
    with mock.patch.object(SimClaims, "is_held", return_value=False):
        careless = msgspec.structs.replace(cloudy(1, TAKEN, elsewhere=False), appear_seconds=0.0)
        assert "nothing is created twice" in {violation.rule for violation in run(careless).violations}


def test_a_successor_elsewhere_cannot_see_what_is_made_and_a_second_machine_goes() -> None:
    twins = 0
    for seed in (0, 1, 7):
        result = run(cloudy(seed, TAKEN, elsewhere=True))
        assert not result.violations, told(result, "")
        twins += sum("destroying a second machine of one instance" in line for line in result.log)
    assert twins, "no seed made any"


def test_a_recorded_trace_is_replayed() -> None:
    jobs = trace.read(TRACE)
    result = run(trace.replay(jobs, seed=1))
    assert not result.violations, told(result, f"--trace {TRACE.relative_to(ROOT)}")
    assert len(jobs) == 24
    assert sum(" completed " in line and line.endswith("success") for line in result.log) == 24
    assert result.machines >= 24


@pytest.mark.parametrize("seed", range(4))
def test_a_recorded_trace_is_replayed_while_things_go_wrong_and_places_are_few(seed: int) -> None:
    jobs = trace.read(TRACE)
    result = run(trace.replay(jobs, seed, faults=True, max_runners=2))
    assert not result.violations, told(result, f"--trace {TRACE.relative_to(ROOT)} --faults --max-runners 2")
    assert result.accidents
    ended = {line.split()[3] for line in result.log if " of octo/" in line and " completed " in line}
    assert len(ended) == len(jobs)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"time": 1, "entity": "octo", "labels": ["linux"], "duration": 1}', "owner/name"),
        ('{"time": -1, "entity": "octo/app", "labels": ["linux"], "duration": 1}', "negative"),
        ('{"entity": "octo/app"}', "time"),
        ("no JSON", "malformed"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_line(tmp_path: Path, line: str, part: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f'{{"time": 1, "entity": "a/b", "labels": ["x"], "duration": 1}}\n{line}\n')
    with pytest.raises(trace.TraceUnusable) as refused:
        trace.read(path)
    assert "trace.jsonl:2" in str(refused.value)
    assert part in str(refused.value)
