"""The console script `hostler-agent`: sees to it that the daemon loads only what it uses."""

import sys


def main() -> None:
    """See `agent.main`."""
    # structlog draws tracebacks with rich where that can be imported, and a daemon draws none: 5 MiB of its 60 less.
    sys.modules["rich"] = None  # type: ignore[assignment]  # how the import system is told that it is not there
    from agent.main import main as run  # noqa: PLC0415 - only now

    run()
