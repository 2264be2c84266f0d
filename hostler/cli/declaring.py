"""`hostler apply`, `diff` and `export`: the whole catalogue as one document."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from hostler.cli import document, plans, shape
from hostler.cli.client import DEFAULT, TIMEOUT_SECONDS, connected
from hostler.cli.options import Coordinator, Json
from protos.hostler.v1.admin_pb2 import ApplyRequest, ApplyResponse, ExportRequest

CHANGES: Final = 4  # as an exit code

# Someone waits for it, but a large catalogue is read and written as a whole.
APPLY_SECONDS: Final = 10 * TIMEOUT_SECONDS

File = Annotated[Path, Parameter(name=["--file", "-f"], help="The document.")]
Prune = Annotated[bool, Parameter(negative="", help="Remove what the document does not declare.")]


def apply(
    file: File,
    *,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would be done.")] = False,
    prune: Prune = False,
    json: Json = False,
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Create or update what a TOML document declares: endpoints, credentials, repositories and other entities,
    flavors, images, templates, proxies, pools, scale sets.

    Secrets may stay outside of it: token_file, webhook_secret_file, private_key_file, password_file and ca_bundle_file
    name files, token_env and its like environment variables; data_file names that of a template. A secret that is
    left out stays as it is.
    """
    answer = _asked(file, coordinator, prune=prune, dry_run=dry_run)
    if json:
        print(shape.to_json(answer))
    elif dry_run:
        print(plans.told(answer))
    else:
        for change in answer.changes or ["nothing to change"]:
            print(plans.clean(change))


def diff(file: File, *, prune: Prune = False, json: Json = False, coordinator: Coordinator = DEFAULT) -> int:
    """Say what `apply` would do. Exit code 0 when that is nothing, 4 when it is something."""
    answer = _asked(file, coordinator, prune=prune, dry_run=True)
    print(shape.to_json(answer) if json else plans.told(answer))
    return CHANGES if answer.changes else 0


def export(*, coordinator: Coordinator = DEFAULT) -> None:
    """Print all that is declared as a document, without its secrets: applied again it changes nothing."""
    with connected(coordinator) as admin:
        print(admin.Export(ExportRequest(), timeout=TIMEOUT_SECONDS).document, end="")


def _asked(file: Path, coordinator: Coordinator, *, prune: bool, dry_run: bool) -> ApplyResponse:
    text = document.resolved(file)
    with connected(coordinator) as admin:
        return admin.Apply(ApplyRequest(document=text, prune=prune, dry_run=dry_run), timeout=APPLY_SECONDS)
