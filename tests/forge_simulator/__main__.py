"""The simulator as a program: `python -m tests.forge_simulator --bind HOST:PORT --state-file FILE`."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from hostler.logs import configure
from tests.forge_simulator.errors import SimulatorError
from tests.forge_simulator.records import ASKED_FOR
from tests.forge_simulator.simulator import ForgeSimulator


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.forge_simulator", description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1:0", metavar="HOST:PORT", help="port 0: any free one")
    parser.add_argument("--state-file", type=Path, required=True, help="kept up to date; read at start if there")
    parser.add_argument("--base-path", default="", help="of the REST interface: empty as github.com, /api/v3 as GHES")
    parser.add_argument("--public-url", help="how guests and others reach this server, if not at the bound address")
    parser.add_argument("--runner-timeout", type=float, default=60.0, metavar="SECONDS", help="silence = lost")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="a first repository, unless the state file has it")
    parser.add_argument("--webhook-url", help="where its workflow_job events go")
    given = parser.parse_args()
    host, colon, port = given.bind.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        parser.error(f"--bind {given.bind}: give HOST:PORT, such as 127.0.0.1:8080")
    given.host, given.port = host, int(port)
    if given.webhook_url and not given.repository:
        parser.error("--webhook-url needs --repository: whose events shall be sent there?")
    return given


def set_up_repository(forge: ForgeSimulator, full_name: str, webhook_url: str | None) -> None:
    """Add the first repository. FORGE_TOKEN and FORGE_WEBHOOK_SECRET are its secrets; without them, random ones."""
    try:
        forge.runners(full_name)
    except SimulatorError:
        forge.add_repository(full_name)
    else:
        return
    forge.add_token(full_name, permissions=ASKED_FOR, value=os.environ.get("FORGE_TOKEN"))
    if webhook_url:
        forge.add_hook(full_name, webhook_url, os.environ.get("FORGE_WEBHOOK_SECRET") or os.urandom(20).hex())


async def run(given: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    forge = ForgeSimulator(
        host=given.host,
        port=given.port,
        base_path=given.base_path,
        public_url=given.public_url,
        runner_timeout=timedelta(seconds=given.runner_timeout),
        state_file=given.state_file,
    )
    async with forge:
        if given.repository:
            set_up_repository(forge, given.repository, given.webhook_url)
        await forge.saved()
        print(f"forge simulator: REST at {forge.api_url}, state in {given.state_file}", flush=True)
        await stopped.wait()


def main() -> int:
    given = arguments()
    configure()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(given))
    except (SimulatorError, OSError) as error:
        print(f"forge simulator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
