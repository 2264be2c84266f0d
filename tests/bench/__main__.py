"""`python -m tests.bench [--json] [--strict] [NAME…]`: run benchmarks and print what they measured."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Final

from hostler import logs
from tests.bench.machine import this_machine
from tests.bench.registry import ALL
from tests.bench.results import Benchmark, Result
from tests.bench.show import Show

EXIT_FAILED: Final = 1
_EXIT_TERMINATED: Final = 128 + signal.SIGTERM


def main() -> int:
    """Exit codes: 0 all ran, 2 wrong arguments. 1: one failed to run or counted what must not be (a job lost, say), or,
    with --strict, missed a goal.
    """
    asked = _arguments()
    chosen = [benchmark for benchmark in ALL if not asked.names or benchmark.name in asked.names]
    if asked.parts:
        print(*sorted({part for benchmark in chosen for part in benchmark.parts}))
        return 0
    logs.configure("warning")
    show = Show(as_json=asked.json)
    # /tmp is in memory on many machines, where durable commits cost nothing.
    place = os.environ.get("TMPDIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="hostler-bench-", dir=place) as folder:
        Path(folder).chmod(0o711)  # machines are QEMU's own user's
        machine = this_machine(Path(folder))
        if not machine.has_real_disk:
            sys.stderr.write(f"{place} is in memory ({machine.filesystem}): set TMPDIR to a folder on a real disk\n")
            return EXIT_FAILED
        show.machine(machine)
        failed = [benchmark.name for benchmark in chosen if not _run(benchmark, Path(folder), show)]
    show.end()
    if failed:
        sys.stderr.write(f"failed to run: {', '.join(failed)}\n")
    for name in show.wrong:
        sys.stderr.write(f"must not be: {name}\n")
    return EXIT_FAILED if failed or show.wrong or (asked.strict and show.missed) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    parts = "print what `tools/setup` has to install for them, and run nothing"
    parser.add_argument("--parts", action="store_true", help=parts)
    names = [benchmark.name for benchmark in ALL]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all without one")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in names:
            parser.error(f"there is no benchmark '{name}': choose from {', '.join(names)}")
    return asked


def _run(benchmark: Benchmark, folder: Path, show: Show) -> bool:
    show.begin(benchmark.name)
    mine = folder / benchmark.name
    mine.mkdir()
    try:
        results = asyncio.run(_in_time(benchmark, mine))
    except asyncio.CancelledError:
        sys.exit(_EXIT_TERMINATED)
    except Exception:  # noqa: BLE001 - the loop's edge: told, and the others go on
        traceback.print_exc()
        return False
    show.results(results)
    return True


async def _in_time(benchmark: Benchmark, folder: Path) -> list[Result]:
    """A signal to end, as a lack of progress, ends what the benchmark has started too."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with asyncio.timeout(benchmark.longest_seconds):
        return await benchmark.run(folder)


if __name__ == "__main__":
    sys.exit(main())
