"""`hostler provider`: the executables that make machines in clouds."""

from datetime import UTC, datetime
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hostler.cli.client import DEFAULT, connected
from hostler.cli.options import Coordinator, Json, show
from hostler.cli.views import clean, row, table
from hostler.errors import HostlerError
from protos.hostler.v1.admin_pb2 import (
    CheckProviderRequest,
    CheckProviderResponse,
    ListProvidersRequest,
    ListProvidersResponse,
    Provider,
)

provider = App(name="provider", help="Executables that make machines in clouds.")

_TIMEOUT_SECONDS: Final = 600  # half a minute for each question, and three questions for each pool
_COLORS: Final = {"ok": "green", "unknown": "yellow", "problem": "red"}


class ProviderFaulty(HostlerError):
    """The check of a provider has found a problem."""

    code = "provider_faulty"
    hint = "see the lines that say problem"


@provider.command(name="list")
def list_(*, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """List the providers, and which of them are left alone because they fail again and again."""
    with connected(coordinator) as admin:
        answer = admin.ListProviders(ListProvidersRequest())
    show(answer, listed(answer, datetime.now(UTC)), json=json)


@provider.command
def check(
    name: Annotated[str, Parameter(name="NAME", help="As its [[provider]] table says.")],
    /,
    *,
    json: Json = False,
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Try a provider before it makes anything: version, configuration, its pools' extra specs, and a listing.

    Exit code 1 when there is a problem. What the executable does not offer to tell is `unknown`, and no problem.
    """
    with connected(coordinator) as admin:
        answer = admin.CheckProvider(CheckProviderRequest(name=name), timeout=_TIMEOUT_SECONDS)
    show(answer, _table(answer), json=json)
    if any(finding.verdict == "problem" for finding in answer.findings):
        raise ProviderFaulty(f"provider '{name}' has problems")


def listed(answer: ListProvidersResponse, now: datetime) -> RenderableType:
    if not answer.providers:
        return "this coordinator has no providers"
    shown = table("PROVIDER", "CALLED", "POOLS", "INSTANCES", "INTERFACE", "EXECUTABLE")
    for one in answer.providers:
        row(
            shown,
            one.name,
            _called(one, now),
            ", ".join(one.pools),
            str(one.instances),
            one.interface_version,
            one.executable,
        )
    faults = [Text(clean(f"{one.name}: {one.fault}")) for one in answer.providers if one.fault]
    return Group(shown, "", *faults) if faults else shown


def _called(one: Provider, now: datetime) -> str:
    failed = f"{one.failures} failures in a row"
    if one.circuit == "open":
        seconds = max(0, round((one.open_until.ToDatetime(UTC) - now).total_seconds()))
        return f"left alone for {seconds} s: {failed}"
    if one.circuit == "tried":
        return f"one call at a time: {failed}"
    return f"yes, after {failed}" if one.failures else "yes"


def _table(answer: CheckProviderResponse) -> RenderableType:
    table = Table("CHECK", "VERDICT", "DETAIL", box=None, pad_edge=False)
    for one in answer.findings:
        verdict = Text(clean(one.verdict), style=_COLORS.get(one.verdict, ""))
        table.add_row(Text(clean(one.subject)), verdict, Text(clean(one.detail)))
    return table
