"""What people see of hosts. Time is passed in."""

from collections.abc import Iterable
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hostler.cli.views import age, arches, clean, devices, drivers, instances, row, table
from protos.hostler.v1.admin_pb2 import FleetStatusResponse, GetHostResponse, Host, RemoveHostResponse
from protos.hostler.v1.fleet_pb2 import Driver


def fleet(status: FleetStatusResponse, now: datetime) -> RenderableType:
    head = Text(clean(f"coordinator {status.coordinator_version}, controller {status.controller_id}"))
    here = instances(status.instances, now) if status.instances else "no instances"
    return Group(head, "", hosts(status.hosts, now), "", here)


def hosts(found: Iterable[Host], now: datetime) -> RenderableType:
    listed = list(found)
    counted = ["DEVICES"] if any(devices(one) for one in listed) else []
    use = ("INSTANCES", "VCPUS", "MEMORY", "DISK", *counted, "DRIVERS", "AGENT", "LOAD")
    shown = table("HOST", "CONNECTED", "TAKES MACHINES", "ARCH", *use)
    for one in listed:
        used, capacity = one.used, one.capacity
        row(
            shown,
            one.name,
            _connected(one, now),
            _takes(one, now),
            arches(one),
            str(one.instances),
            f"{used.vcpus}/{capacity.vcpus}",
            f"{used.memory_mib / 1024:.1f}/{capacity.memory_mib / 1024:.1f} GiB",
            f"{used.disk_gib}/{capacity.disk_gib} GiB",
            *([devices(one)] if counted else []),
            drivers(one),
            one.agent_version,
            f"{one.load.load:.2f}" if one.HasField("load") else "",
        )
    return shown if shown.row_count else "no host has connected yet"


def host(found: GetHostResponse, now: datetime) -> RenderableType:
    one = found.host
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("host", one.name),
        ("connected", _connected(one, now)),
        ("takes machines", _takes(one, now)),
        ("arch", arches(one)),
        ("drivers", drivers(one)),
        *((f"{out.name} is out", out.detail) for out in one.drivers_out),
        ("images", ", ".join(sorted({image for driver in one.drivers for image in _images(driver)}))),
        ("vCPUs", f"{one.used.vcpus} of {one.capacity.vcpus} promised"),
        ("memory", f"{one.used.memory_mib} of {one.capacity.memory_mib} MiB promised"),
        ("disk", f"{one.used.disk_gib} of {one.capacity.disk_gib} GiB promised"),
        ("devices", devices(one)),
        ("available", _available(one)),
        ("agent", one.agent_version),
        ("last seen", f"{age(one.last_seen, now)} ago" if one.HasField("last_seen") else "never"),
    ):
        if value:
            facts.add_row(name, Text(clean(value)))
    here = instances(found.instances, now) if found.instances else "nothing is on it"
    parts: list[RenderableType] = [facts, "", here]
    if found.strays:
        strays = table("STRAY MACHINE", "ID", "KEPT BECAUSE")
        for stray in found.strays:
            row(strays, stray.name, stray.instance_id, stray.reason)
        parts += ["", strays]
    return Group(*parts)


def state(one: Host, now: datetime) -> RenderableType:
    left = "nothing is on it" if not one.instances else f"{one.instances} instances are on it"
    takes = _takes(one, now)
    said = "takes machines" if takes == "yes" else f"takes no machines: {takes}"
    return Text(clean(f"{one.name} {said}; {left}"))


def removed(name: str, answer: RemoveHostResponse) -> RenderableType:
    said = [f"removed {name}"]
    if answer.connected:
        said.append("its stream is cut")
    said.append("its certificate is revoked" if answer.enrolled else "it had no certificate")
    if answer.invitations:
        said.append(f"{answer.invitations} open invitations are withdrawn")
    if answer.lost:
        said.append(
            f"ended here as lost: {', '.join(answer.lost)} (what of them still runs there is to be stopped there)"
        )
    return Text(clean("; ".join(said)))


def _images(driver: Driver) -> Iterable[str]:
    yield from driver.images
    for emulated in driver.emulated:
        yield from (f"{image} ({emulated.arch})" for image in emulated.images)


def _connected(one: Host, now: datetime) -> str:
    if one.connected:
        return "yes"
    since = f" for {age(one.disconnected_at, now)}" if one.HasField("disconnected_at") else ""
    return f"{one.presence}{since}" if one.presence else "no"


def _takes(one: Host, now: datetime) -> str:
    """Why it takes no machines, all of it; `yes` when nothing but its connection is in the way."""
    why = []
    if one.admission not in ("", "open"):
        reason = f" ({one.admission_reason})" if one.admission_reason else ""
        why.append(f"{one.admission}{reason}{_until(one, now)}")
    if one.HasField("pressure"):
        why.append(one.pressure.detail)
    return "; ".join(why) or "yes"


def _until(one: Host, now: datetime) -> str:
    if not one.HasField("drain_deadline"):
        return ""
    left = (one.drain_deadline.ToDatetime(now.tzinfo) - now).total_seconds()
    return f", busy machines are stopped in {max(0, int(left))} s" if left > 0 else ", its deadline is over"


def _available(one: Host) -> str:
    if not one.HasField("load"):
        return ""
    load = one.load
    return f"{load.memory_available_mib} MiB memory, {load.disk_available_gib} GiB disk; load {load.load:.2f}"
