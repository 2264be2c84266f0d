"""The command `hostler-agent`: arguments, signals, exit codes."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from agent import config, daemon
from hostler import __version__, logs
from hostler.errors import ConfigError, HostlerError

EXIT_FAILED = 1
EXIT_CONFIG = 2


def main() -> None:
    """Exit codes: 0 stopped by a signal or check passed, 1 could not go on, 2 the configuration is at fault."""
    asked = _arguments()
    try:
        settings = config.load(asked.config)
        logs.configure(settings.log_level)
        provider = settings.make_provider()
        if asked.check:
            opened = asyncio.run(daemon.check(settings, provider))
            left = (
                "" if opened else f"; an agent serves {settings.data_dir}, so the hypervisor was not opened once more"
            )
            sys.stdout.write(f"{asked.config}: good{left}\n")
        else:
            settings.check_files()
            asyncio.run(_serve(daemon.Agent(settings, provider)))
    except HostlerError as error:
        # What the file's own reading does not find is told by key alone.
        file = f"{asked.config}: " if str(error).startswith("key '") else ""
        sys.stderr.write(f"hostler-agent: {file}{error}\n")
        sys.exit(EXIT_CONFIG if asked.check or isinstance(error, ConfigError) else EXIT_FAILED)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hostler-agent", description="Makes and destroys machines on this host.")
    parser.add_argument("--config", type=Path, default=Path("/etc/hostler/agent.toml"), metavar="FILE")
    parser.add_argument("--check", action="store_true", help="validate the file and what it names, then exit 0 or 2")
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args()


async def _serve(agent: daemon.Agent) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await agent.run(stop)


if __name__ == "__main__":
    main()
