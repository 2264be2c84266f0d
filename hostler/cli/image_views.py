"""How images are shown to people. Names and reasons come from hosts and servers: all text passes `clean`."""

from collections.abc import Iterable
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hostler.cli.views import age
from hostler.cli.views import clean as clean
from protos.hostler.v1.admin_pb2 import GetImageResponse, Image, ImageOnHost, PrefetchImagesResponse

_DIGEST_SHOWN = 12
_COLORS = {"have": "green", "failed": "red", "fetching": "yellow", "wanted": "yellow"}


def images(found: Iterable[Image]) -> RenderableType:
    table = _table("IMAGE", "ARCH", "FORMAT", "SHA256", "HAVE", "FETCHING", "FAILED", "URL")
    for one in found:
        counts = (str(count) for count in (one.hosts_have, one.hosts_fetching, one.hosts_failed))
        _row(table, one.name, one.arch, _format(one), one.sha256[:_DIGEST_SHOWN], *counts, one.url)
    return table if table.row_count else "no images"


def image(answer: GetImageResponse, now: datetime) -> RenderableType:
    entries = _table("IMAGE", "ARCH", "FORMAT", "SHA256", "URL")
    for one in answer.images:
        _row(entries, one.name, one.arch, _format(one), one.sha256, one.url)
    hosts = _table("HOST", "ARCH", "STATE", "SINCE", "PROGRESS", "WHY")
    for held in answer.hosts:
        since = f"{age(held.changed_at, now)} ago" if held.HasField("changed_at") else ""
        _row(hosts, held.host, held.arch, held.state, since, progress(held), held.detail)
    return Group(entries, "", hosts if hosts.row_count else "on no host yet")


def prefetch(answer: PrefetchImagesResponse) -> RenderableType:
    if not answer.hosts and not answer.have:
        return "no host could boot it"
    table = _table("HOST", "IMAGE")
    for host in answer.hosts:
        _row(table, host, "wanted")
    for host in answer.have:
        _row(table, host, "there, or coming already")
    return table


def progress(held: ImageOnHost) -> str:
    """1.2 of 3.4 GiB (35 %), or what is known of it."""
    if held.state == "fetching" and held.total_bytes:
        share = 100 * held.bytes // held.total_bytes
        return f"{_gib(held.bytes)} of {_gib(held.total_bytes)} GiB ({share} %)"
    return f"{_gib(held.bytes)} GiB" if held.bytes else ""


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"


def _format(one: Image) -> str:
    return one.format if one.compression == "none" else f"{one.format}, {one.compression}"


def _table(*headings: str) -> Table:
    return Table(*headings, box=None, pad_edge=False, header_style="bold")


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(clean(cell) or "-", style=_COLORS.get(cell, "")) for cell in cells))
