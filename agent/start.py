"""The console script `hostler-agent`: sees to it that the daemon loads only what it uses."""

import sys


def main() -> None:
    """See `agent.main`."""
    # structlog draws tracebacks with rich where that can be imported, and a daemon draws none: 5 MiB of its 60 less.
    sys.modules["rich"] = None  # type: ignore[assignment]  # how the import system is told that it is not there
    # asyncio has a TLS of its own where it finds one, and here gRPC brings another.
    sys.modules["ssl"] = None  # type: ignore[assignment]
    import asyncio  # noqa: F401, PLC0415

    del sys.modules["ssl"]  # those that fetch images need it
    from agent.main import main as run  # noqa: PLC0415 - only now

    run()
