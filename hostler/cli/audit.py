"""Commands about what was changed and by whom."""

import sys
from typing import Annotated

from cyclopts import App, Parameter
from rich.table import Table

from hostler.cli import views
from hostler.cli.client import DEFAULT, TIMEOUT_SECONDS, channel
from hostler.cli.options import Coordinator, Json, show
from protos.hostler.v1.access_pb2 import ListAuditRequest, ListAuditResponse, VerifyAuditRequest
from protos.hostler.v1.access_pb2_grpc import AccessStub

_VERIFY_SECONDS = 600.0

audit = App(name="audit", help="What was changed, when and by whom.")


@audit.command(name="list")
def audit_list(
    *,
    limit: Annotated[int, Parameter(help="How many entries, the newest first.")] = 100,
    before: Annotated[int, Parameter(help="Only entries with smaller numbers.")] = 0,
    json: Json = False,
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Show the newest entries of the audit log."""
    with channel(coordinator) as to:
        answer = AccessStub(to).ListAudit(ListAuditRequest(before=before, limit=limit), timeout=TIMEOUT_SECONDS)
    show(answer, _entries(answer), json=json)


@audit.command(name="verify")
def audit_verify(*, coordinator: Coordinator = DEFAULT) -> None:
    """Prove that no entry was changed, removed or moved; exits with 1 when one was."""
    with channel(coordinator) as to:
        answer = AccessStub(to).VerifyAudit(VerifyAuditRequest(), timeout=_VERIFY_SECONDS)
    if answer.fault:
        print(f"hostler: {views.clean(answer.fault)}; {answer.entries} entries before it are good", file=sys.stderr)
        sys.exit(1)
    print(f"{answer.entries} entries, all as they were written")


def _entries(answer: ListAuditResponse) -> Table:
    table = Table("NUMBER", "AT", "WHO", "VIA", "WHAT", "BEFORE", "AFTER", box=None, pad_edge=False)
    for one in answer.entries:
        table.add_row(
            str(one.number),
            f"{one.at.ToDatetime():%Y-%m-%d %H:%M:%S}",
            views.clean(one.actor),
            views.clean(one.via),
            views.clean(f"{one.target}: {one.action}"),
            views.clean(one.before),
            views.clean(one.after),
        )
    return table
