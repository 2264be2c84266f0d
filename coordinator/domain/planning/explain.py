"""Why a job waits, in full: what each pool and each host has against it, its place, and what would start it now.

Asked of the planner's own board and its own questions: there is no second copy of what it decides by.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from coordinator.domain.fleet import Pool
from coordinator.domain.labels import Labels
from coordinator.domain.planning import reasons
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.draft import Draft, NoRoom
from coordinator.domain.planning.waiting import JobClass, Place
from coordinator.domain.world import Moment, Plan

_HOSTS_TOLD: Final = 200


class HostVerdict(msgspec.Struct, frozen=True):
    host: str
    reason: str  # empty: it would take the machine


class PoolVerdict(msgspec.Struct, frozen=True):
    pool_id: str
    pool: str
    missing: tuple[str, ...]  # labels of the job that it has not: it is not for this job
    code: str = ""  # empty: it can make a machine
    reason: str = ""
    hosts: tuple[HostVerdict, ...] = ()  # of a pool that hosts make machines for, those that have a reason first
    hosts_left_out: int = 0


class InLine(msgspec.Struct, frozen=True):
    """Where a job is in the queue."""

    before_alike: int  # older jobs of its entity with its labels, which no machine is coming for either
    before_of_entity: int  # jobs of its entity with a higher priority or an older date; with those
    waiting: int  # all that no machine is coming for
    starves: bool  # it has waited beyond the bound: it goes before all that have not


class Explanation(msgspec.Struct, frozen=True):
    summary: str
    in_line: InLine | None = None  # None: it does not wait for a machine
    pools: tuple[PoolVerdict, ...] = ()
    kept: str = ""  # what is kept free for it
    remedies: tuple[str, ...] = ()  # any of them would start it, or is what to wait for


def explain(board: Board, decided: Plan, moment: Moment, job_id: str) -> Explanation:
    """Of a queued job. Looks at every pool of its entity, and at every host for each."""
    held = board.held.get(job_id)
    if held is not None:
        return Explanation(f"it is held back: {reasons.held_back(held)}" if held.retry_at else "it is held back")
    found = board.waiting.find(job_id)
    if found is None:
        return Explanation("it does not wait for a machine")
    job_class, place = found
    wait = decided.waits_of.get(job_class)
    if wait is None or place < wait.first:
        return Explanation(_coming(board, job_id))
    draft = Draft(board, moment)
    pools = tuple(_pools(draft, decided, job_class.entity_id, job_class.labels))
    return Explanation(
        summary=wait.reason,
        in_line=_in_line(board, decided, job_class, place, moment),
        pools=pools,
        kept=wait.kept,
        remedies=tuple(dict.fromkeys(_remedies(board, moment, pools, job_class))),
    )


def _coming(board: Board, job_id: str) -> str:
    if board.serving.has_own(job_id):
        return "a machine is coming that was made for it"
    return "a runner that is coming, or is idle, is there for it"


# --- its place ---


def _in_line(board: Board, decided: Plan, job_class: JobClass, place: Place, moment: Moment) -> InLine:
    before: dict[JobClass, int] = {}
    everybody = 0
    for other, wait in decided.waits_of.items():
        queue = [one for one in board.waiting.of(other.entity_id).get(other, ()) if one >= wait.first]
        everybody += len(queue)
        if other.entity_id == job_class.entity_id and other.priority >= job_class.priority:
            before[other] = sum(one < place for one in queue) if other.priority == job_class.priority else len(queue)
    return InLine(
        before_alike=before.get(job_class, 0),
        before_of_entity=sum(before.values()),
        waiting=everybody,
        starves=place[0] <= moment.now - board.policy.starvation_bound,
    )


# --- what pools and hosts have against it ---


def _pools(draft: Draft, decided: Plan, entity_id: str, labels: Labels) -> Iterable[PoolVerdict]:
    board = draft.board
    matching = board.matching(entity_id, labels)
    for pool in matching:
        yield _verdict(draft, decided, pool)
    known = {pool.id for pool in matching}
    others = [pool for pool in board.pools.values() if pool.entity_id == entity_id and pool.id not in known]
    for pool in sorted(others, key=lambda pool: (len(labels - pool.labels), pool.name)):
        missing = tuple(sorted(labels - pool.labels))
        yield PoolVerdict(pool.id, pool.name, missing, "labels", f"it lacks {', '.join(missing)}")


def _verdict(draft: Draft, decided: Plan, pool: Pool) -> PoolVerdict:
    room = draft.room(pool)
    hosts: list[HostVerdict] = []
    if pool.provider not in draft.board.clouds:
        told = reasons.of_hosts(draft.board, decided.holds, pool)
        hosts = [HostVerdict(name, reason) for name, reason in told.items()]
    code, reason = (room.code, room.reason) if isinstance(room, NoRoom) else ("", "")
    left_out = max(len(hosts) - _HOSTS_TOLD, 0)
    return PoolVerdict(pool.id, pool.name, (), code, reason, tuple(hosts[:_HOSTS_TOLD]), left_out)


# --- what would start it ---


def _remedies(board: Board, moment: Moment, pools: Iterable[PoolVerdict], job_class: JobClass) -> Iterable[str]:
    verdicts = list(pools)
    able = [one for one in verdicts if not one.missing and one.code != "labels"]
    if not able:
        yield from _more_labels(verdicts, job_class.labels)
    for one in able:
        pool = board.pools[one.pool_id]
        if one.code in _REMEDIES:
            yield _REMEDIES[one.code](board, moment, pool)
        elif not one.code:
            yield f"nothing: pool {pool.name} can make a machine, and the next plan takes it into account"


def _more_labels(verdicts: list[PoolVerdict], labels: Labels) -> Iterable[str]:
    if verdicts:
        nearest = verdicts[0]
        yield f"give pool {nearest.pool} the labels {', '.join(nearest.missing)}, if its machines are what they say"
    yield f"declare a pool with the labels {', '.join(sorted(labels))}, or correct runs-on in the workflow"


def _full(board: Board, _: Moment, pool: Pool) -> str:
    return f"the end of one of the {board.in_pool[pool.id]} machines of pool {pool.name}, or a higher max_runners of it"


def _resting(_: Board, __: Moment, pool: Pool) -> str:
    why = f" ({pool.fault})" if pool.fault else ""
    return (
        f"{reasons.clock(pool.cool_until)}, when pool {pool.name} is tried again; sooner, if what failed is mended{why}"
    )


def _quota(board: Board, _: Moment, pool: Pool) -> str:
    entity = board.entity(pool.entity_id)
    return f"the end of one of {entity.full_name}'s {board.of_entity[entity.id]} machines, or a higher quota of it"


def _budget(board: Board, moment: Moment, pool: Pool) -> str:
    budget = moment.budgets.get(board.entity(pool.entity_id).credentials_id)
    when = reasons.clock(budget.refill_at) if budget else "the next minute"
    return f"{when}, when the forge lets more runners be registered; other credentials have a limit of their own"


def _host(board: Board, _: Moment, pool: Pool) -> str:
    """The host that lacks least, of those that lack nothing but room."""
    suited = [
        (board.free[name].short_of(pool.resources), name)
        for name, host in board.hosts.items()
        if not host.closed and pool.provider in host.drivers and host.own_images(pool.provider, pool.arch) is not None
    ]
    short = [(told.count(";"), name, told) for told, name in suited if told]
    if short:
        name, told = min(short)[1:]
        return f"room on a host, as on {name}, where there is too little: {told}"
    return f"a host that takes machines of pool {pool.name}: see what each has against it"


_REMEDIES: Final[Mapping[str, Callable[[Board, Moment, Pool], str]]] = {
    "pool_disabled": lambda _, __, pool: f"enabling pool {pool.name}",
    "pool_full": _full,
    "pool_rests": _resting,
    "quota_used_up": _quota,
    "rate_limit": _budget,
    "kept": lambda _, __, pool: f"the start of the job for which the next place in pool {pool.name} is kept",
    "no_provider": lambda _, __, pool: (
        f"an agent with the provider '{pool.provider}', or a [[provider]] of that name at the coordinator"
    ),
    "provider_busy": lambda _, __, pool: f"the end of one of the creates that {pool.provider} is at",
    "provider_rests": lambda _, __, pool: (
        f"a provider {pool.provider} that works: hostler provider check {pool.provider}"
    ),
    "no_host": _host,
}
