"""The planner: what is known and the time in, a plan out. Pure; its parts are in `planning/`."""

from datetime import datetime

from coordinator.domain.planning import leaving, reasons, spare
from coordinator.domain.planning.board import Board
from coordinator.domain.planning.draft import Draft
from coordinator.domain.world import Moment, Plan, World


def plan(world: World, now: datetime) -> Plan:
    """Decide from a whole snapshot. Same world and time, same plan."""
    return plan_on(Board.of(world), Moment(now))


def why_waiting(board: Board, decided: Plan, job_id: str, *, brief: bool = False) -> str:
    """Why no machine is coming for a job; empty when one is, or when the job is not queued.

    Args:
        brief: without what each host has against it, for which all of them must be looked at.
    """
    held = board.held.get(job_id)
    if held is not None and held.retry_at is not None:
        return reasons.held_back(held)
    found = board.waiting.find(job_id)
    if found is None:
        return ""
    job_class, place = found
    wait = decided.waits_of.get(job_class)
    if wait is None or place < wait.first:
        return ""
    return wait.reason if brief else reasons.in_full(board, decided.holds, wait)


def plan_on(board: Board, moment: Moment, most: int | None = None) -> Plan:
    """Decide which instances to create and which to retire.

    The board is as before when this returns: what is planned becomes a fact only by being committed. Creates are in
    the order of policy: priority, then the entities' shares against their weights, then the time in the queue; whoever
    has waited longer than the starvation bound goes first, and what it needs is kept for it.

    Args:
        most: creates in one plan. Where there would be more, the plan wants to be followed by another at once.
    """
    board.advance(moment.now)
    draft = Draft(board, moment, most)
    try:
        draft.serve()
        if not draft.unfinished:
            spare.keep_idle(draft)
        surplus = spare.retires(board, draft.holds.all)
        waits = draft.waits
    finally:
        draft.undo()
    retires = {retire.instance_id: retire for retire in [*surplus, *leaving.retires(board)]}
    times = [board.next_change(), draft.retry_at, board.now if draft.unfinished else None]
    return Plan(
        creates=tuple(draft.creates),
        waits=tuple(waits),
        retires=tuple(retires.values()),
        holds=tuple(draft.holds.all),
        drained=leaving.drained(board),
        wake_at=min((time for time in times if time is not None), default=None),
    )
