"""The command `hostler-coordinator`: arguments, signals, exit codes."""

import argparse
import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from coordinator import checks, coordinator
from coordinator.config import CoordinatorConfig
from coordinator.store import keys, restore, rotation
from coordinator.store.keys import KeyPlace
from coordinator.store.recorded import recorded
from hostler import __version__, config, logs
from hostler.errors import ConfigError, HostlerError

EXIT_FAILED = 1
EXIT_CONFIG = 2
ROTATE_KEY = "rotate-key"
EXPORT_TRACE = "export-trace"
RESTORE = "restore"


def main() -> None:
    """Exit codes: 0 stopped by a signal or check passed, 1 could not go on, 2 the configuration is at fault."""
    asked = _arguments()
    try:
        settings = config.load(asked.config, CoordinatorConfig)
        if asked.command is None:
            _check(asked.config, settings)
        if asked.check:
            sys.stdout.write(f"{asked.config}: good\n")
            return
        logs.configure(settings.log_level)
        if asked.command == ROTATE_KEY:
            _rotate_key(settings)
            return
        if asked.command == EXPORT_TRACE:
            asyncio.run(_export_trace(settings))
            return
        _make_data_dir(asked.config, settings)
        if asked.command == RESTORE:
            _restore(settings, asked.file)
            return
        _allow_many_files()
        asyncio.run(_serve(settings))
    except HostlerError as error:
        sys.stderr.write(f"hostler-coordinator: {error}\n")
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hostler-coordinator", description="Takes jobs from forges, runs the fleet.")
    parser.add_argument(
        "command",
        nargs="?",
        choices=[ROTATE_KEY, EXPORT_TRACE, RESTORE],
        help="without a command: serve; rotate-key: seal all secrets with a new key, while no coordinator runs; "
        "export-trace: print the jobs that have run, one JSON object a line, also while coordinators run; "
        "restore FILE: fill an empty database from a backup, while no coordinator runs",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="of restore: what 'hostler backup' wrote")
    parser.add_argument("--config", type=Path, default=Path("/etc/hostler/coordinator.toml"), metavar="FILE")
    parser.add_argument("--check", action="store_true", help="validate the file and what it names, then exit 0 or 2")
    parser.add_argument("--version", action="version", version=__version__)
    asked = parser.parse_args()
    if (asked.command == RESTORE) != (asked.file is not None):
        parser.error("restore takes a FILE, and nothing else does")
    return asked


def _check(file: Path, settings: CoordinatorConfig) -> None:
    try:
        checks.check(settings, os.environ)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _make_data_dir(file: Path, settings: CoordinatorConfig) -> None:
    try:
        Path(settings.data_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"{file}: key 'data_dir': cannot be made: {error}") from error


def _rotate_key(settings: CoordinatorConfig) -> None:
    place = keys.find(Path(settings.data_dir), settings.secrets.key_file, os.environ)
    done = asyncio.run(rotation.rotate(settings.database_url, place))
    what = "finished the rotation that was begun earlier" if done.finished_earlier else "made a new key"
    sys.stdout.write(f"{what}: {done.secrets} secrets are sealed with the new key\n{_what_next(settings, place)}")


def _what_next(settings: CoordinatorConfig, place: KeyPlace) -> str:
    if place.given:
        return "Now leave only the first 32 bytes, the new key, in the credential's source.\n"
    if settings.database_url.startswith("sqlite"):
        return f"Back up {place.path} together with the database.\n"
    return f"Copy {place.path} to every coordinator before any of them starts, and back it up with the database.\n"


def _restore(settings: CoordinatorConfig, file: Path) -> None:
    place = keys.find(Path(settings.data_dir), settings.secrets.key_file, os.environ)
    done = asyncio.run(restore.restore(settings.database_url, file, place))
    sys.stdout.write(
        f"restored {done.rows} rows of {done.made_at:%Y-%m-%d %H:%M:%S} UTC, written by Hostler {done.header.version}\n"
    )


async def _export_trace(settings: CoordinatorConfig) -> None:
    async for job in recorded(settings.database_url):
        sys.stdout.buffer.write(msgspec.json.encode(job) + b"\n")
    sys.stdout.buffer.flush()


def _allow_many_files() -> None:
    """A connection is an open file, and the usual soft limit of 1,024 is there for programs that call select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: CoordinatorConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await coordinator.run(settings, stop)


if __name__ == "__main__":
    main()
