"""`python -m tests.bench.sweeping SECONDS ARGUMENTS…`: the coordinator, which reads everything anew so often.

The real pause is five minutes, longer than anybody measures: so what is measured with a shorter one is an upper bound.
"""

import sys
from datetime import timedelta

from coordinator import main
from coordinator.engine import engine


def run() -> None:
    seconds = float(sys.argv.pop(1))
    engine._SWEEP = timedelta(seconds=seconds)  # type: ignore[misc]  # a constant everywhere else
    main.main()


if __name__ == "__main__":
    run()
