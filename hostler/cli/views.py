"""What people see: tables and lines made from the protocol's messages. Time is passed in.

Names, faults and details come from hosts, forges and guests: all text passes `clean`, so none can steer the terminal.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from protos.hostler.v1.admin_pb2 import Host, Instance, Job, TimelineEntry

_COLORS = {"running": "green", "active": "green", "error": "red", "yes": "green", "no": "red"}


def clean(text: str, *, keep: str = "") -> str:
    """Without control characters; white space of any kind becomes a blank unless it is in `keep`."""
    return "".join(
        c if c in keep or c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def jobs(found: Iterable[Job], now: datetime) -> RenderableType:
    shown = table("ID", "JOB", "REPOSITORY", "LABELS", "STATUS", "RUNNER", "QUEUED", "WAITS FOR")
    for job in found:
        queued = f"{age(job.queued_at, now)} ago" if job.HasField("queued_at") else "-"
        row(
            shown,
            job.id,
            job.name,
            job.entity,
            ", ".join(job.labels),
            job.conclusion or job.status,
            job.runner_name,
            queued,
            job.waiting_reason,
        )
    return shown if shown.row_count else "no jobs"


def job(found: Job) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("job", found.id),
        ("at the forge", f"{found.forge_job_id}, attempt {found.attempt}"),
        ("name", found.name),
        ("repository", found.entity),
        ("labels", ", ".join(found.labels)),
        ("status", f"{found.status} ({found.conclusion})" if found.conclusion else found.status),
        ("runner", found.runner_name),
        ("instance", found.instance_id),
        ("waits for", found.waiting_reason),
    ):
        if value:
            facts.add_row(name, Text(clean(value)))
    return Group(facts, "", _timeline(found.timeline)) if found.timeline else facts


def entry(found: TimelineEntry) -> str:
    """One line of `hostler watch`."""
    at = found.at.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    subject = f"job {found.job_id or '-'}  instance {found.instance_id or '-'}"
    return clean(f"{at}  {found.step:<14}  {subject}  {found.detail}").rstrip()


def age(since: Timestamp, now: datetime) -> str:
    """The two greatest units: 3d4h, 5m12s, 42s. A clock that is ahead of ours counts as now."""
    seconds = max(0, int((now - since.ToDatetime(UTC)) / timedelta(seconds=1)))
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    return "".join(f"{count}{unit}" for count, unit in parts[first : first + 2])


def arches(host: Host) -> str:
    """Of the machines that it makes."""
    emulated = sorted({one.arch for driver in host.drivers for one in driver.emulated})
    return ", ".join([host.arch, *(f"{arch} (emulated)" for arch in emulated)])


def drivers(host: Host) -> str:
    """What it has, and how; or that it cannot be used now."""
    usable = [f"{driver.name} ({driver.acceleration})" for driver in host.drivers]
    return ", ".join([*usable, *(f"{driver.name} (out)" for driver in host.drivers_out)])


def devices(host: Host) -> str:
    """Of each kind how many are free, which may be fewer than none where some were taken out."""
    used = {one.name: one.count for one in host.used.devices}
    total = {one.name: one.count for one in host.capacity.devices}
    return ", ".join(
        f"{name} {total.get(name, 0) - used.get(name, 0)}/{total.get(name, 0)} free" for name in sorted({*total, *used})
    )


def instances(found: Iterable[Instance], now: datetime) -> Table:
    shown = table("INSTANCE", "STATUS", "RUNNER", "HOST", "AGE", "JOB", "FAULT")
    for instance in found:
        row(
            shown,
            instance.name,
            instance.status,
            instance.runner_status,
            instance.host or f"cloud {instance.provider}",
            age(instance.created_at, now) if instance.HasField("created_at") else "-",
            instance.job_id,
            instance.fault,
        )
    return shown


def _timeline(entries: Iterable[TimelineEntry]) -> Table:
    """Milliseconds since the first entry and since the one before."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("AT MS", "STEP MS"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for heading in ("STEP", "INSTANCE", "DETAIL"):
        shown.add_column(heading)
    moments = [(found, _milliseconds(found.at)) for found in entries]
    first = before = moments[0][1]
    for found, at in moments:
        row(shown, str(at - first), str(at - before), found.step, found.instance_id, found.detail)
        before = at
    return shown


def _milliseconds(at: Timestamp) -> int:
    return at.seconds * 1000 + at.nanos // 1_000_000


def table(*headings: str) -> Table:
    return Table(*headings, box=None, pad_edge=False, header_style="bold")


def row(shown: Table, *cells: str) -> None:
    shown.add_row(*(Text(clean(cell) or "-", style=_COLORS.get(cell, "")) for cell in cells))
