"""The command `hostler-agent`: arguments, signals, exit codes."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from agent import config, daemon
from agent.config import AgentConfig
from hostler import __version__, logs
from hostler.errors import ConfigError, HostlerError

EXIT_FAILED = 1
EXIT_CONFIG = 2
ENROL = "enrol"


def main() -> None:
    """Exit codes: 0 stopped by a signal or check passed, 1 could not go on, 2 the configuration is at fault."""
    asked = _arguments()
    try:
        settings = config.load(asked.config)
        logs.configure(settings.log_level)
        if asked.command == ENROL:
            _enrol(settings, asked)
            return
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
    parser.add_argument(
        "command",
        nargs="?",
        choices=[ENROL],
        help="without a command: serve; enrol: get this host's certificate, with what `hostler host invite` printed",
    )
    parser.add_argument("--config", type=Path, default=Path("/etc/hostler/agent.toml"), metavar="FILE")
    parser.add_argument("--check", action="store_true", help="validate the file and what it names, then exit 0 or 2")
    parser.add_argument("--version", action="version", version=__version__)
    enrolment = parser.add_argument_group("enrol")
    enrolment.add_argument("--coordinator", metavar="HOST:PORT", help="its address for clients")
    enrolment.add_argument("--token", help="of the invitation: good once, and for this host alone")
    enrolment.add_argument("--ca-pin", metavar="sha256:HEX", help="by which the coordinator is known")
    asked = parser.parse_args()
    given = [asked.coordinator, asked.token, asked.ca_pin]
    if asked.command == ENROL and None in given:
        parser.error("enrol needs --coordinator, --token and --ca-pin: copy the whole line that was printed")
    if asked.command != ENROL and given != [None] * 3:
        parser.error("--coordinator, --token and --ca-pin are for: hostler-agent enrol")
    return asked


def _enrol(settings: AgentConfig, asked: argparse.Namespace) -> None:
    from agent import enrol  # noqa: PLC0415 - what it needs is done once, and would be held for ever

    given = asyncio.run(enrol.enrol(settings, asked.coordinator, asked.token, asked.ca_pin))
    calls = settings.coordinator.address or given.agents_address
    sys.stdout.write(
        f"enrolled as '{given.host}'; the agent will connect to {calls}\n"
        f"its certificate is renewed by itself, and is good until {given.expires_at:%Y-%m-%d %H:%M} UTC\n"
    )


async def _serve(agent: daemon.Agent) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await agent.run(stop)


if __name__ == "__main__":
    main()
