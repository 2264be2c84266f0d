"""`hostler job explain` for people."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from hostler.cli.views import clean, row, table
from protos.hostler.v1.admin_pb2 import Explanation, InLine, PoolVerdict


def explanation(found: Explanation) -> RenderableType:
    name = f"job {found.job.id} ({found.job.name}) of {found.job.entity}, labels {', '.join(found.job.labels)}"
    parts: list[RenderableType] = [Text(clean(name)), Text(clean(found.summary))]
    if found.HasField("in_line"):
        parts.append(Text(clean(_in_line(found.in_line))))
    if found.kept:
        parts.append(Text(clean(found.kept)))
    if found.pools:
        parts += ["", _pools(found.pools)]
    if found.remedies:
        parts += ["", "What would start it:", *(Text(clean(f"  {remedy}")) for remedy in found.remedies)]
    return Group(*parts)


def _in_line(line: InLine) -> str:
    bound = "It has waited beyond the bound and goes before all that have not. " if line.starves else ""
    return (
        f"{bound}Before it: {line.before_alike} jobs like it, {line.before_of_entity} of its entity in all; "
        f"{line.waiting} wait in the whole queue."
    )


def _pools(pools: Iterable[PoolVerdict]) -> RenderableType:
    shown = table("POOL", "HOST", "SAYS")
    for pool in pools:
        row(shown, pool.name, "", pool.reason or "can make a machine")
        for hosts, reason in _hosts(pool):
            row(shown, "", hosts, reason)
    return shown


def _hosts(pool: PoolVerdict) -> Iterator[tuple[str, str]]:
    """Of many hosts that say the same, once."""
    alike: dict[str, list[str]] = defaultdict(list)
    for one in pool.hosts:
        alike[one.reason].append(one.host)
    for reason, hosts in alike.items():
        more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
        yield ", ".join(hosts[:3]) + more, reason or "takes it"
    if pool.hosts_left_out:
        yield f"{pool.hosts_left_out} more hosts", "were not asked"
