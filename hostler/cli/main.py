"""The command line of `hostler`: nouns, verbs, and what the exit code means.

0: done. 1: the coordinator refused or failed. 2: the command line or a file named there is wrong. 3: no coordinator
answers. 4: `diff` found changes, or nothing was done because nobody said yes. 5: `import` left something out.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter

from hostler import __version__
from hostler.cli import access, audit, backing, declaring, explain_views, host_views, importing, shape, views
from hostler.cli.client import DEFAULT, TIMEOUT_SECONDS, Unreachable, connected
from hostler.cli.hosts import host
from hostler.cli.images import image
from hostler.cli.options import Coordinator, Json, show
from hostler.cli.providers import provider
from hostler.errors import ConfigError, HostlerError
from protos.hostler.v1.admin_pb2 import (
    ExplainJobRequest,
    FleetStatusRequest,
    GetConsoleRequest,
    GetJobRequest,
    ListJobsRequest,
    WatchRequest,
)

OK, REFUSED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


app = App(
    name="hostler",
    help="Ask and tell the coordinator. Exit codes: 0 done, 1 refused by the coordinator, 2 wrong usage, 3 no answer, "
    "4 there is something to change, 5 something was left out.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
fleet = App(name="fleet", help="Hosts and what runs on them.")
job = App(name="job", help="Jobs and their way through the fleet.")
instance = App(name="instance", help="Single instances.")
access.add_host_commands(host)
for group in (fleet, host, image, provider, job, instance, access.token, audit.audit, importing.importing):
    app.command(group)
for command in (declaring.apply, declaring.diff, declaring.export, backing.backup):
    app.command(command)


@fleet.command(name="status")
def fleet_status(*, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """Show hosts, their capacity and use, and all instances."""
    with connected(coordinator) as admin:
        answer = admin.FleetStatus(FleetStatusRequest(), timeout=TIMEOUT_SECONDS)
    show(answer, host_views.fleet(answer, datetime.now(UTC)), json=json)


@job.command(name="list")
def job_list(
    *,
    all_: Annotated[bool, Parameter(name="--all", negative="", help="With those that are completed.")] = False,
    json: Json = False,
    coordinator: Coordinator = DEFAULT,
) -> None:
    """List the jobs that wait or run."""
    with connected(coordinator) as admin:
        answer = admin.ListJobs(ListJobsRequest(all=all_), timeout=TIMEOUT_SECONDS)
    show(answer, views.jobs(answer.jobs, datetime.now(UTC)), json=json)


@job.command(name="show")
def jobshow(
    id_: Annotated[str, Parameter(name="ID")], /, *, json: Json = False, coordinator: Coordinator = DEFAULT
) -> None:
    """Show one job with its timeline.

    Parameters
    ----------
    id_
        Hostler's id of the job, or the forge's.
    """
    with connected(coordinator) as admin:
        answer = admin.GetJob(GetJobRequest(id=id_), timeout=TIMEOUT_SECONDS)
    show(answer, views.job(answer), json=json)


@job.command(name="explain")
def job_explain(
    id_: Annotated[str, Parameter(name="ID")], /, *, json: Json = False, coordinator: Coordinator = DEFAULT
) -> None:
    """Say why a job waits: what each pool and each host has against it, its place, and what would start it now.

    Parameters
    ----------
    id_
        Hostler's id of the job, or the forge's.
    """
    with connected(coordinator) as admin:
        answer = admin.ExplainJob(ExplainJobRequest(id=id_), timeout=TIMEOUT_SECONDS)
    show(answer, explain_views.explanation(answer), json=json)


@instance.command(name="console")
def instance_console(id_: Annotated[str, Parameter(name="ID")], /, *, coordinator: Coordinator = DEFAULT) -> None:
    """Print the end of an instance's console: as it is into a file or pipe, without control characters on a terminal.

    Parameters
    ----------
    id_
        Id or name of the instance.
    """
    with connected(coordinator) as admin:
        answer = admin.GetConsole(GetConsoleRequest(instance=id_), timeout=TIMEOUT_SECONDS)
    if answer.truncated:
        _tell("the beginning of this console was not kept")
    if sys.stdout.isatty():
        sys.stdout.write(views.clean(answer.data.decode(errors="replace").replace("\r\n", "\n"), keep="\n\t"))
    else:
        sys.stdout.buffer.write(answer.data)
    sys.stdout.flush()


@app.command
def watch(*, json: Json = False, coordinator: Coordinator = DEFAULT) -> None:
    """Print timeline entries as they are committed, until interrupted."""
    with connected(coordinator) as admin:
        try:
            for entry in admin.Watch(WatchRequest()):
                print(shape.to_json(entry, lines=True) if json else views.entry(entry), flush=True)
        except KeyboardInterrupt:
            return
    raise Unreachable("the coordinator ended the watch", hint="it is stopping or restarting; watch again")


def _tell(message: str) -> None:
    print("hostler:", views.clean(message, keep="\n"), file=sys.stderr)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        code = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        _tell(f"{error}\ntry 'hostler --help'")
        return USAGE
    except HostlerError as error:
        _tell(str(error))
        return USAGE if isinstance(error, ConfigError) else UNREACHABLE if isinstance(error, Unreachable) else REFUSED
    except BrokenPipeError:
        # The reader of a pipe went, as `head` does. Python would complain once more when it flushes at exit.
        sys.stdout = None
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    return code if isinstance(code, int) else OK


def main() -> NoReturn:
    sys.exit(run(sys.argv[1:]))
