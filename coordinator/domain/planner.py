"""The planner: a snapshot and the time in, a plan out. A line of pure steps: demand, place, surplus."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from coordinator.domain.fleet import Host, Pool
from coordinator.domain.instance import COMING, GOING, Instance, RunnerStatus, Status
from coordinator.domain.job import Job
from coordinator.domain.labels import serve
from coordinator.domain.resources import Resources
from coordinator.domain.world import Create, Plan, Retire, Waits, World

IDLE_GRACE: Final = timedelta(minutes=2)
"""A runner that nothing is queued for is kept this long: a late webhook may be about to give it a job."""


def plan(world: World, now: datetime) -> Plan:
    """Decide which instances to create and which to retire.

    Pure: same world and time, same plan. Creates are in the order of the jobs' queue times.
    """
    room = _Room(world, now)
    creates: list[Create] = []
    waits: list[Waits] = []
    for job in demand(world.jobs, world.instances):
        placed = _place(job, room)
        if isinstance(placed, Create):
            creates.append(placed)
        else:
            waits.append(placed)
    retires = tuple(overdue(world.instances, now)) + tuple(surplus(world, now))
    return Plan(tuple(creates), tuple(waits), retires, _next_wake(world, now))


def demand(jobs: Iterable[Job], instances: Iterable[Instance]) -> list[Job]:
    """The queued jobs that idle and coming runners do not cover, oldest first.

    A runner is never promised to a job: any with a superset of the labels may take any job, so each runner is set
    against the oldest job that it serves, the most special runners (fewest labels) first.
    """
    waiting = sorted(jobs, key=lambda job: (job.queued_at, job.id))
    serving = sorted((i for i in instances if i.serves_demand), key=lambda i: (len(i.labels), i.created_at, i.id))
    for instance in serving:
        taken = next(
            (
                n
                for n, job in enumerate(waiting)
                if job.entity_id == instance.entity_id and serve(instance.labels, job.labels)
            ),
            None,
        )
        if taken is not None:
            del waiting[taken]
    return waiting


def overdue(instances: Iterable[Instance], now: datetime) -> Iterable[Retire]:
    """Instances whose runner did not come online in their pool's bootstrap time."""
    for instance in instances:
        booting = instance.runner_status in (RunnerStatus.PENDING, RunnerStatus.INSTALLING)
        if booting and instance.status in COMING and now >= instance.bootstrap_deadline:
            yield Retire(instance.id, "its runner did not come online within the pool's bootstrap timeout")


def surplus(world: World, now: datetime) -> Iterable[Retire]:
    """Idle runners past their grace that no queued job needs."""
    spare = _unneeded(world)
    for instance in spare:
        if instance.idle_since is not None and now >= instance.idle_since + IDLE_GRACE:
            yield Retire(instance.id, "idle, and no queued job that it serves")


def _unneeded(world: World) -> list[Instance]:
    jobs = list(world.jobs)
    idle = sorted(
        (
            i
            for i in world.instances
            if i.serves_demand and i.runner_status is RunnerStatus.IDLE and i.status is Status.RUNNING
        ),
        key=lambda i: (len(i.labels), i.created_at, i.id),
    )
    spare = []
    for instance in idle:
        needed = next((j for j in jobs if j.entity_id == instance.entity_id and serve(instance.labels, j.labels)), None)
        if needed is None:
            spare.append(instance)
        else:
            jobs.remove(needed)
    return spare


class _Room:
    """What is still free while a plan grows: hosts' resources and pools' places."""

    def __init__(self, world: World, now: datetime) -> None:
        self.now = now
        self.pools = sorted(world.pools, key=lambda p: (-p.priority, p.name, p.id))
        self.clouds = world.clouds
        self.hosts = sorted(world.hosts, key=lambda h: h.name)
        used: dict[str, Resources] = {}
        for instance in world.instances:
            used[instance.host] = used.get(instance.host, Resources()) + instance.resources
        self.free = {host.name: host.capacity - used.get(host.name, Resources()) for host in self.hosts}
        self.in_pool = Counter(instance.pool_id for instance in world.instances)
        self.on_host = Counter(instance.host for instance in world.instances if instance.host)

    def take(self, pool: Pool, host: str) -> None:
        self.in_pool[pool.id] += 1
        if host:
            self.free[host] -= pool.resources
            self.on_host[host] += 1


def _place(job: Job, room: _Room) -> Create | Waits:
    pools = [p for p in room.pools if p.entity_id == job.entity_id and serve(p.labels, job.labels)]
    if not pools:
        wanted = ", ".join(sorted(job.labels))
        return Waits(job.id, "no_pool", f"no pool of its repository has all its labels ({wanted})")
    reasons: list[str] = []
    for pool in pools:
        host = _host_for(pool, room)
        if isinstance(host, Waits):
            reasons.append(f"pool {pool.name}: {host.reason}")
            continue
        room.take(pool, host)
        return Create(pool, host, job.id)
    return Waits(job.id, "no_room", "; ".join(reasons))


def _host_for(pool: Pool, room: _Room) -> str | Waits:
    """A host for one more instance of the pool (empty for a cloud), or why there is none."""
    refusal = _pool_refusal(pool, room)
    if refusal:
        return Waits("", "pool", refusal)
    if pool.provider in room.clouds:
        return ""
    fits: list[Host] = []
    reasons: list[str] = []
    for host in room.hosts:
        refusal = _host_refusal(host, pool, room)
        if refusal:
            reasons.append(f"host {host.name} {refusal}")
        else:
            fits.append(host)
    if fits:
        return _emptiest(fits, room).name
    return Waits("", "host", "; ".join(reasons) or f"no agent offers the provider '{pool.provider}'")


def _pool_refusal(pool: Pool, room: _Room) -> str:
    if not pool.enabled:
        return "it is disabled"
    if room.in_pool[pool.id] >= pool.max_runners:
        return f"all its {pool.max_runners} runners are in use"
    if _resting(pool.cool_until, room.now):
        return f"it rests until {_clock(pool.cool_until)} after {pool.failures} failures"
    return ""


def _host_refusal(host: Host, pool: Pool, room: _Room) -> str:
    """Why the host cannot take one more instance of the pool; empty when it can."""
    checks = (
        (pool.provider not in host.drivers, f"has no provider '{pool.provider}'"),
        (host.arch != pool.arch, f"is {host.arch}, the pool wants {pool.arch}"),
        (not host.connected, "is not connected"),
        (pool.image not in host.drivers.get(pool.provider, frozenset()), f"does not have the image '{pool.image}'"),
        (_resting(host.cool_until, room.now), f"rests until {_clock(host.cool_until)} after {host.failures} failures"),
        (
            not room.free[host.name].holds(pool.resources),
            f"is full ({room.free[host.name].short_of(pool.resources)})",
        ),
    )
    return next((reason for refused, reason in checks if refused), "")


def _resting(until: datetime | None, now: datetime) -> bool:
    return until is not None and now < until


def _clock(time: datetime | None) -> str:
    return f"{time:%H:%M:%S} UTC" if time else ""


def _emptiest(hosts: Sequence[Host], room: _Room) -> Host:
    return max(hosts, key=lambda h: (room.free[h.name].memory_mib, room.free[h.name].vcpus, -room.on_host[h.name]))


def _next_wake(world: World, now: datetime) -> datetime | None:
    """The earliest moment at which time alone changes the plan."""
    times = [p.cool_until for p in world.pools if p.cool_until]
    times += [h.cool_until for h in world.hosts if h.cool_until]
    for instance in world.instances:
        if instance.status in GOING:
            continue
        if instance.runner_status in (RunnerStatus.PENDING, RunnerStatus.INSTALLING):
            times.append(instance.bootstrap_deadline)
        elif instance.runner_status is RunnerStatus.IDLE and instance.idle_since and not instance.job_id:
            times.append(instance.idle_since + IDLE_GRACE)
    return min((t for t in times if t > now), default=None)
