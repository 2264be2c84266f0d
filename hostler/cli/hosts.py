"""`hostler host`: the build hosts, and what they are to do."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from cyclopts import App, Parameter

from hostler.cli import host_views
from hostler.cli.client import DEFAULT, TIMEOUT_SECONDS, connected
from hostler.cli.options import Coordinator, Json, show
from protos.hostler.v1.admin_pb2 import (
    CordonHostRequest,
    DrainHostRequest,
    GetHostRequest,
    ListHostsRequest,
    RemoveHostRequest,
    UncordonHostRequest,
)

host = App(name="host", help="Build hosts: what they do, and whether they take more.")

Name = Annotated[str, Parameter(name="NAME", help="The host's name.")]
Reason = Annotated[str, Parameter(name="--reason", help="Why, for those who ask why jobs wait.")]


def _check_deadline(_: Any, deadline: timedelta | None) -> None:
    if deadline is not None and not timedelta(seconds=1) <= deadline <= timedelta(days=365):
        raise ValueError("must be from 1s to 365d")


@host.command(name="list")
def host_list(*, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """List the hosts."""
    with connected(coordinator) as admin:
        answer = admin.ListHosts(ListHostsRequest(), timeout=TIMEOUT_SECONDS)
    show(answer, host_views.hosts(answer.hosts, datetime.now(UTC)), json=json)


@host.command(name="show")
def host_show(name: Name, /, *, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """Show one host and what is on it."""
    with connected(coordinator) as admin:
        answer = admin.GetHost(GetHostRequest(name=name), timeout=TIMEOUT_SECONDS)
    show(answer, host_views.host(answer, datetime.now(UTC)), json=json)


@host.command
def cordon(name: Name, /, *, reason: Reason = "", json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """Let a host take no new machines; what runs goes on. Ends a drain."""
    with connected(coordinator) as admin:
        answer = admin.CordonHost(CordonHostRequest(name=name, reason=reason), timeout=TIMEOUT_SECONDS)
    show(answer, host_views.state(answer, datetime.now(UTC)), json=json)


@host.command
def drain(
    name: Name,
    /,
    *,
    deadline: Annotated[
        timedelta | None,
        Parameter(
            validator=_check_deadline,
            help="After this time, as 30m or 2h, machines that are still busy are stopped, and their jobs fail. "
            "Without it they all end by themselves.",
        ),
    ] = None,
    reason: Reason = "",
    json: Json = False,
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Empty a host: no new machines, idle runners go at once, busy ones when their job ends or the deadline is over."""
    seconds = 0 if deadline is None else int(deadline.total_seconds())
    request = DrainHostRequest(name=name, reason=reason, deadline_seconds=seconds)
    with connected(coordinator) as admin:
        answer = admin.DrainHost(request, timeout=TIMEOUT_SECONDS)
    show(answer, host_views.state(answer, datetime.now(UTC)), json=json)


@host.command
def uncordon(name: Name, /, *, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """Let a host take machines again. Ends a drain."""
    with connected(coordinator) as admin:
        answer = admin.UncordonHost(UncordonHostRequest(name=name), timeout=TIMEOUT_SECONDS)
    show(answer, host_views.state(answer, datetime.now(UTC)), json=json)


@host.command
def remove(
    name: Name,
    /,
    *,
    force: Annotated[
        bool,
        Parameter(
            negative="",
            help="Also with instances on it: here they end as lost, also those with jobs; there they run on.",
        ),
    ] = False,
    json: Json = False,
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Forget a host that is not to come back: its stream is cut, its certificate and open invitations are void.

    An agent on the coordinator's own machine, which needs no certificate, must be stopped first. A host that is invited
    again is a new host.
    """
    with connected(coordinator) as admin:
        answer = admin.RemoveHost(RemoveHostRequest(name=name, force=force), timeout=TIMEOUT_SECONDS)
    show(answer, host_views.removed(name, answer), json=json)
