"""Run seeds, or a recorded trace, and show what happened."""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hostler import logs
from hostler.errors import HostlerError
from tests.simulation.world import trace
from tests.simulation.world.scenario import Scenario, of_seed
from tests.simulation.world.world import run


def _scenarios(asked: argparse.Namespace) -> Iterator[Scenario]:
    jobs = trace.read(asked.trace) if asked.trace else None
    for seed in range(asked.seed, asked.seed + asked.count):
        yield (
            of_seed(seed)
            if jobs is None
            else trace.replay(jobs, seed, faults=asked.faults, max_runners=asked.max_runners)
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.world", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1, help="run that many seeds, from --seed on")
    parser.add_argument("--verbose", action="store_true", help="print the log of events")
    parser.add_argument("--trace", type=Path, help="replay recorded jobs, one JSON object a line")
    parser.add_argument("--faults", action="store_true", help="things go wrong meanwhile, by the seed")
    parser.add_argument("--max-runners", type=int, default=100, help="of each pool that they are replayed with")
    asked = parser.parse_args()
    logs.configure("error")
    broken = 0
    began = time.perf_counter()
    try:
        for scenario in _scenarios(asked):
            result = run(scenario)
            if asked.verbose:
                print(scenario)
                print("\n".join(result.log))
            for violation in result.violations:
                print(f"seed {scenario.seed} ({scenario.kind}): {violation.rule}: {violation.text}")
            broken += bool(result.violations)
    except (HostlerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - began
    print(
        f"{asked.count} runs in {seconds:.1f} s, {asked.count / seconds:.1f} a second, {broken} broken", file=sys.stderr
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
