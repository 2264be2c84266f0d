"""What a plan says to people, and what it need only say when somebody asks."""

from collections.abc import Sequence
from datetime import datetime

from coordinator.domain import tries
from coordinator.domain.fleet import Host, Pool
from coordinator.domain.images import Image, Reach
from coordinator.domain.job import Job
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.hosts import Kind
from coordinator.domain.resources import Devices, Resources
from coordinator.domain.world import Hold, Waits

_REASONS_TOLD = 8


def in_full(board: Board, holds: Sequence[Hold], wait: Waits) -> str:
    """Why jobs wait, with what each host has against it. Looks at every host."""
    told = []
    for refusal in wait.refusals:
        pool = board.pools.get(refusal.pool_id)
        reason = no_host(board, holds, pool) if refusal.by_hosts and pool else refusal.reason
        told.append(f"pool {refusal.pool_name}: {reason}")
    return "; ".join([*told, *([wait.kept] if wait.kept else [])]) or wait.reason


def of_hosts(board: Board, holds: Sequence[Hold], pool: Pool) -> dict[str, str]:
    """What each host has against a pool's machine, by its name."""
    kept: dict[str, list[Hold]] = {}
    for hold in holds:
        kept.setdefault(hold.host, []).append(hold)
    hosts = sorted(board.hosts.values(), key=lambda host: host.name)
    return {host.name: _refusal(board, host, pool, kept.get(host.name, ())) for host in hosts}


def no_host(board: Board, holds: Sequence[Hold], pool: Pool) -> str:
    """Why no host takes one, told of each; of many alike, once."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in of_hosts(board, holds, pool).items():
        by_reason.setdefault(reason, []).append(name)
    if not offered(board, pool):
        return no_agent(pool)
    lacks = [no_room(board, Kind.of(pool))] if pool.resources.devices else []
    told = lacks + [f"host {_some(names)} {reason}" for reason, names in by_reason.items()]
    more = [f"and {len(told) - _REASONS_TOLD} more reasons"] if len(told) > _REASONS_TOLD else []
    return "; ".join(told[:_REASONS_TOLD] + more)


def no_room(board: Board, kind: Kind) -> str:
    """In a few words; of devices, whether none are passed, there are none, or none free."""
    if not kind.resources.devices:
        return "no host has room for it"
    offering = [host for host in board.hosts.values() if kind.driver in host.drivers]
    if offering and not any(kind.driver in host.passes for host in offering):
        return f"no host passes devices to machines of '{kind.driver}'"
    able = [host for host in board.hosts.values() if _may_pass(kind, host)]
    for word, amounts in (("any", [one.capacity for one in able]), ("a free", [board.free[one.name] for one in able])):
        if not any(have.holds(Resources(devices=kind.resources.devices)) for have in amounts):
            return f"no host has {_devices(word, kind.resources.devices)}"
    return "no host has room for it"


def _may_pass(kind: Kind, host: Host) -> bool:
    """Also when its driver is out, and says nothing of what it can."""
    if kind.driver in host.drivers_out:
        return host.arch == kind.arch
    return kind.driver in host.passes and host.own_images(kind.driver, kind.arch) is not None


def _devices(word: str, wanted: Devices) -> str:
    """`any gpu`, `a free gpu`, and of several `2 free gpu`."""
    if [count for _, count in wanted] == [1]:
        return f"{word} {wanted[0][0]}"
    free = " free" if word == "a free" else ""
    return " and ".join(f"{count}{free} {name}" for name, count in wanted)


def _counts(devices: Devices) -> str:
    return ", ".join(f"{count} {name}" for name, count in devices)


def no_agent(pool: Pool) -> str:
    return f"no agent offers the provider '{pool.provider}', and no [[provider]] of that name is configured"


def offered(board: Board, pool: Pool) -> bool:
    """Whether any host has the pool's provider, be it out for now."""
    return any(pool.provider in host.drivers or pool.provider in host.drivers_out for host in board.hosts.values())


def unsuited(board: Board, host: Host, pool: Pool) -> str:
    """Why a host with room for it does not take this pool's machine now; empty when it does."""
    if board.making[host.name] >= board.policy.creates_per_host:
        return f"is making {board.making[host.name]} machines, its limit"
    if board.neighbours.strange(host.name, pool):
        return "has machines of another repository, and one of the two does not share hosts"
    return ""


def kept_for(hold: Hold) -> str:
    return f"kept for job {hold.job_id}, which has waited since {clock(hold.since)}"


def held_back(job: Job) -> str:
    """Why no machine is made for a job whose next try is later."""
    again = clock(job.retry_at)
    if job.tries >= tries.MOST:
        return f"{job.tries} machines made for it came to nothing; the next try is at {again}; the last: {job.fault}"
    return (
        f"no machine is made for it before {again}: a runner that may have run it has just ended, "
        "or new jobs are made to wait (minimum_job_age_backoff)"
    )


def clock(time: datetime | None) -> str:
    return f"{time:%H:%M:%S} UTC" if time else ""


def _refusal(board: Board, host: Host, pool: Pool, kept: Sequence[Hold]) -> str:
    free = board.free[host.name]
    image = board.reach(host, pool.provider, pool.arch, pool.image)
    told = _no_image(host, pool, board.images.get((pool.image, pool.arch)))
    offered = host.own_images(pool.provider, pool.arch) is not None
    wanted = pool.resources.devices
    lacks = wanted and (pool.provider not in host.passes or host.capacity.lacking(pool.resources))
    checks = (
        (pool.provider in host.drivers_out, f"cannot use {pool.provider} now: {host.drivers_out.get(pool.provider)}"),
        (pool.provider not in host.drivers, f"has no provider '{pool.provider}'"),
        (not offered, f"is {host.arch}, the pool wants {pool.arch}"),
        (bool(lacks) and pool.provider not in host.passes, f"passes no devices to machines of '{pool.provider}'"),
        (bool(lacks), f"has {_counts(host.capacity.devices) or 'no devices'}, the pool wants {_counts(wanted)}"),
        (bool(host.closed), host.closed),
        (image in told, told.get(image, "")),
        (board.resting(host.cool_until), f"rests until {clock(host.cool_until)} after {host.failures} failures"),
        (not free.holds(pool.resources), f"is full ({free.short_of(pool.resources)})"),
    )
    known = next((reason for refused, reason in checks if refused), "") or unsuited(board, host, pool)
    if known:
        return known
    return f"is {kept_for(kept[0])}" if kept else "has room now: the next plan takes it into account"


def _no_image(host: Host, pool: Pool, entry: Image | None) -> dict[Reach, str]:
    """Why a host can make no machine of a pool's image."""
    name, rest = pool.image, host.held.rests.get(entry.sha256) if entry else None
    return {
        Reach.NO_ENTRY: f"does not have the image '{name}', nor does the catalogue for {pool.arch}",
        Reach.NO_FETCHING: f"does not have the image '{name}', and cannot fetch it for {pool.provider}",
        Reach.RESTS: f"could not fetch the image '{name}' and does not try before {clock(rest)}",
    }


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
