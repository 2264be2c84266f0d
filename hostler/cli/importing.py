"""`hostler import`: what another controller has is read, shown as a plan, and declared here."""

import sys
import tomllib
from collections.abc import Iterable, Mapping
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from hostler import toml
from hostler.cli import document, plans
from hostler.cli.client import DEFAULT, connected
from hostler.cli.declaring import CHANGES
from hostler.cli.moving import Moving, Settled
from hostler.cli.options import Coordinator
from hostler.errors import ConfigError
from hostler.garm import database as garm_database
from hostler.garm import rest as garm_rest
from hostler.garm.model import GarmFleet
from hostler.garm.translate import Label, Missing

LEFT_OUT: Final = 5  # as an exit code

importing = App(name="import", help="Take over what another controller has.")


@importing.command
def garm(
    *,
    database: Annotated[Path | None, Parameter(help="GARM's SQLite database.")] = None,
    passphrase_file: Annotated[Path | None, Parameter(help="With the passphrase of GARM's [database] table.")] = None,
    url: Annotated[str, Parameter(help="Of a running GARM, for example https://garm.example.")] = "",
    token: Annotated[
        str,
        Parameter(env_var="HOSTLER_GARM_TOKEN", help="Of GARM's administrator. Others can read it in a command line."),
    ] = "",
    secrets_file: Annotated[Path | None, Parameter(help="TOML with the secrets that GARM's API hides.")] = None,
    disabled: Annotated[bool, Parameter(negative="", help="Let the pools make no machines yet.")] = False,
    yes: Annotated[bool, Parameter(negative="", help="Do it without asking.")] = False,
    coordinator: Coordinator = DEFAULT,
) -> int:
    """Take over endpoints, credentials, repositories and other entities, pools, scale sets, templates and proxies, from
    GARM's database or its API.

    First the plan is shown, with what is left out and why. Exit codes: 0 all is taken over, 4 nothing was done,
    5 something was left out.
    """
    fleet = _read(database, passphrase_file, url, token)
    secrets = _secrets(secrets_file)
    with connected(coordinator) as admin:
        moving = Moving(admin, fleet, disabled=disabled)
        secrets |= _asked(moving.missing(secrets))
        settled = moving.settle(secrets)
        print(_shown(settled))
        if settled.plan.changes and not (yes or _confirmed()):
            return CHANGES
        if settled.plan.changes:
            for change in moving.apply(settled):
                print(plans.clean(change))
    return LEFT_OUT if settled.left_out or settled.plan.unserved else 0


def _read(database: Path | None, passphrase_file: Path | None, url: str, token: str) -> GarmFleet:
    if (database is None) == (not url):
        raise ConfigError("give --database or --url, and one of them alone")
    if database is not None:
        if passphrase_file is None:
            raise ConfigError("--passphrase-file is missing", hint="it is in GARM's config.toml, in [database]")
        return garm_database.read(database, _content(passphrase_file).strip())
    return garm_rest.read(url, token or _prompted("token of GARM's administrator", "--token"))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(error)) from None


def _secrets(path: Path | None) -> dict[Label, Mapping[str, Any]]:
    """Tables as `[credentials.NAME]` and `[repository."OWNER/NAME"]`, each with its secrets or references to them."""
    read = tomllib.loads(document.resolved(path)) if path else {}
    for table, named in read.items():
        if not isinstance(named, dict) or not all(isinstance(one, dict) for one in named.values()):
            raise ConfigError(f"{path}: '{table}': must hold tables like [credentials.NAME]")
    return {(table, name): one for table, named in read.items() for name, one in named.items()}


def _asked(missing: Iterable[Missing]) -> dict[Label, Mapping[str, Any]]:
    found: dict[Label, dict[str, Any]] = {}
    for one in missing:
        called = f"[{one.table}.{toml.value(one.name)}] {one.key}"
        said = _prompted(called, "--secrets-file, which holds it")
        found.setdefault((one.table, one.name), {})[one.key] = _number(said) if one.key.endswith("_id") else said
    return dict(found)


def _prompted(what: str, option: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"{what} is not known", hint=f"give {option}, or run this in a terminal to be asked")
    said = getpass(f"{plans.clean(what)} (a file's name after @): ")
    return _content(Path(said[1:])).decode().rstrip("\r\n") if said.startswith("@") else said


def _number(said: str) -> int:
    if not said.isdecimal():
        raise ConfigError(f"'{said[:40]}' is not a number")
    return int(said)


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        print("nothing was done: give --yes to do it")
        return False
    return input("Do this? [y/N] ").strip().lower() in ("y", "yes")


def _shown(settled: Settled) -> str:
    left_out = [plans.clean(f"! left out: {one}") for one in settled.left_out]
    return "\n".join([*left_out, plans.told(settled.plan)])
