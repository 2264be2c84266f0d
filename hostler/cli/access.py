"""Commands about who may speak to the coordinator: `host invite`, `host revoke` and `token`."""

import shlex
import sys
from datetime import UTC, datetime
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.table import Table

from hostler.cli import views
from hostler.cli.client import DEFAULT, TIMEOUT_SECONDS, channel
from hostler.cli.options import Coordinator, Json, show
from protos.hostler.v1.access_pb2 import (
    InviteHostRequest,
    ListTokensRequest,
    ListTokensResponse,
    MakeTokenRequest,
    RevokeHostRequest,
    RevokeTokenRequest,
)
from protos.hostler.v1.access_pb2_grpc import AccessStub

Name = Annotated[str, Parameter(name="NAME")]

token = App(name="token", help="Tokens for the admin client on other machines.")


def add_host_commands(host: App) -> None:
    host.command(host_invite, name="invite")
    host.command(host_revoke, name="revoke")


def host_invite(
    name: Name,
    /,
    *,
    minutes: Annotated[int, Parameter(help="How long the invitation is good.")] = 60,
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Print the one line to run on a host so that it is enrolled: good once, for that host, for a while.

    Parameters
    ----------
    name
        What the host is called: its host name, or [host] name of its agent's configuration.
    """
    with channel(coordinator) as to:
        answer = AccessStub(to).InviteHost(
            InviteHostRequest(host=name, valid_seconds=minutes * 60), timeout=TIMEOUT_SECONDS
        )
    until = answer.expires_at.ToDatetime(tzinfo=UTC)
    print(f"hostler: run this on {views.clean(name)} as root, before {until:%Y-%m-%d %H:%M} UTC:", file=sys.stderr)
    if answer.replaces:
        print("hostler: this host is enrolled; its certificate ends when the line is run", file=sys.stderr)
    line = ["hostler-agent", "enrol", "--coordinator", answer.clients_address, "--token", answer.token]
    print(shlex.join([*line, "--ca-pin", answer.ca_pin]))


def host_revoke(name: Name, /, *, coordinator: Coordinator = DEFAULT) -> None:
    """Shut a host out at once: its stream is cut and its certificate opens nothing. It may be invited again.

    Its machines run on; they are taken for lost when the host does not come back.

    Parameters
    ----------
    name
        The host's name.
    """
    with channel(coordinator) as to:
        answer = AccessStub(to).RevokeHost(RevokeHostRequest(host=name), timeout=TIMEOUT_SECONDS)
    withdrawn = f", and {answer.invitations} open invitations withdrawn" if answer.invitations else ""
    print(f"revoked {views.clean(name)}{withdrawn}")


@token.command(name="make")
def token_make(
    name: Name,
    /,
    *,
    days: Annotated[int, Parameter(help="How long it is good.")] = 90,
    role: Annotated[Literal["viewer", "operator", "admin"], Parameter(help="What it may do.")] = "admin",
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Make a token and print it: it is shown this once. It is good for this client and for the REST API.

    Parameters
    ----------
    name
        Whose or what it is for.
    """
    with channel(coordinator) as to:
        answer = AccessStub(to).MakeToken(
            MakeTokenRequest(name=name, valid_days=days, role=role), timeout=TIMEOUT_SECONDS
        )
    where = answer.clients_address
    told = f"use it elsewhere with --coordinator {where} --token-file FILE --ca-pin {answer.ca_pin}"
    nowhere = "no other machine can use it yet: set [grpc] agents_bind, clients_bind and public_names"
    print(f"hostler: {told if where else nowhere}", file=sys.stderr)
    print(answer.token)


@token.command(name="list")
def token_list(*, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """List the tokens that were made and not revoked."""
    with channel(coordinator) as to:
        answer = AccessStub(to).ListTokens(ListTokensRequest(), timeout=TIMEOUT_SECONDS)
    show(answer, _tokens(answer, datetime.now(UTC)), json=json)


@token.command(name="revoke")
def token_revoke(name: Name, /, *, coordinator: Coordinator = DEFAULT) -> None:
    """End a token at once.

    Parameters
    ----------
    name
        What it was made with.
    """
    with channel(coordinator) as to:
        AccessStub(to).RevokeToken(RevokeTokenRequest(name=name), timeout=TIMEOUT_SECONDS)
    print(f"revoked {views.clean(name)}")


def _tokens(answer: ListTokensResponse, now: datetime) -> Table:
    table = Table("NAME", "ROLE", "MADE", "EXPIRES", box=None, pad_edge=False)
    for one in answer.tokens:
        expires = one.expires_at.ToDatetime(tzinfo=UTC)
        over = " (expired)" if expires <= now else ""
        table.add_row(
            views.clean(one.name),
            views.clean(one.role),
            f"{one.made_at.ToDatetime():%Y-%m-%d %H:%M}",
            f"{expires:%Y-%m-%d %H:%M}{over}",
        )
    return table
