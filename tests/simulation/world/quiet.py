"""What must hold when nothing goes wrong any more and time has run on until nothing changes."""

from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.world.forge import Job
from tests.simulation.world.rows import InstanceRow
from tests.simulation.world.scenario import CLOUD, Kind

if TYPE_CHECKING:
    from tests.simulation.world.world import World


def leftovers(world: "World") -> list[tuple[str, str]]:
    """What is not as it must be: the rule and what breaks it."""
    rows = world.rows.alive()
    found = [*_jobs(world), *_machines(world, rows), *_registrations(world), *_idle(world, rows), *_made(world, rows)]
    return found + [("a drain ends", f"{host} is draining for ever") for host in world.rows.draining()]


def unserved(world: "World") -> list[int]:
    """Jobs that the forge holds queued though some pool could take them."""
    return [job.id for job in world.forge.jobs.values() if job.status == "queued" and _served(world, job)]


def _served(world: "World", job: Job) -> bool:
    return any(p.repository == job.spec.entity and job.labels <= set(p.labels) for p in world.scenario.pools)


def _jobs(world: "World") -> list[tuple[str, str]]:
    rule = "every queued job has capacity or a reason"
    known = {row.forge_job_id: row for row in world.rows.jobs()}
    found = []
    for job in world.forge.jobs.values():
        row = known.get(job.id)
        if (
            row is None
            and world.scenario.faults.webhook_dropped
            and not (job.status == "queued" and _served(world, job))
        ):
            continue  # it began and ended between two polls, or none of our pools is for it: nobody asks for such
        if row is None:
            found.append((rule, f"job {job.id} is not known, the forge has it {job.status}"))
        elif row.status != job.status:
            found.append((rule, f"job {job.id} is {job.status} at the forge and {row.status} here"))
        elif job.status == "queued" and (world.parts is None or not world.parts.engine.waiting_reason(row.id)):
            found.append((rule, f"job {job.id} waits without a reason"))
        elif job.status == "in_progress":
            found.append((rule, f"job {job.id} has not ended"))
    return found


def _machines(world: "World", rows: list[InstanceRow]) -> list[tuple[str, str]]:
    known = {(row.host, row.id) for row in rows if row.host} | {("", row.name) for row in rows if not row.host}
    names = {(row.host, row.id if row.host else row.name): row.name for row in rows}
    there = {
        (host.spec.name, machine.id): machine.name
        for host in world.hosts.values()
        for machine in host.machines.values()
    }
    there |= {("", name): name for name in world.cloud.names()}
    found = [("no machine without a row", f"{there[key]} on {key[0] or CLOUD}") for key in sorted(there.keys() - known)]
    twice = [name for name, count in sorted(Counter(world.cloud.names()).items()) if count > 1]
    found += [("no machine without a row", f"a second {name} on {CLOUD}") for name in twice]
    found += [
        ("no row without a machine", f"{names[key]} on {key[0] or CLOUD}") for key in sorted(known - there.keys())
    ]
    return found


def _registrations(world: "World") -> list[tuple[str, str]]:
    names = {machine.name for host in world.hosts.values() for machine in host.machines.values()}
    names |= set(world.cloud.names())
    return [
        ("no registration without a machine", f"runner {runner.name}")
        for runner in world.forge.runners.values()
        if runner.name not in names and runner.name not in world.rules.forgotten  # the forge forgets those in a day
    ]


def _idle(world: "World", rows: list[InstanceRow]) -> list[tuple[str, str]]:
    kept = {pool.name: pool.min_idle for pool in world.scenario.pools}
    count = Counter(row.pool for row in rows)
    found = []
    for pool, machines in sorted(count.items()):
        if machines > kept[pool]:
            found.append(("no machine is kept for nothing", f"pool {pool} has {machines}, keeps {kept[pool]}"))
    odd = [row for row in rows if (row.status, row.runner_status) != ("running", "idle")]
    found += [("no machine is kept for nothing", f"{row.name} is {row.status}, {row.runner_status}") for row in odd]
    return found


def _made(world: "World", rows: list[InstanceRow]) -> list[tuple[str, str]]:
    if world.scenario.kind is Kind.CHAOS or unserved(world):
        return []
    jobs = sum(job.status == "completed" for job in world.forge.jobs.values())
    wanted = jobs + len(rows) + world.forge.made_way
    if world.rules.made_count == wanted:
        return []
    return [("exactly one machine for each job", f"{world.rules.made_count} machines for {wanted}")]
