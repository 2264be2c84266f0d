"""What should be against what a host holds: one table, one answer for every pair."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from coordinator.domain.instance import Instance, Status


class Wanted(StrEnum):
    CREATED = "created"  # a create is under way
    PRESENT = "present"  # it was seen running
    ABSENT = "absent"  # it is being deleted
    ENDED = "ended"  # it was deleted, or has ended with its host when that was lost
    UNKNOWN = "unknown"  # nobody here has heard of it


class Seen(StrEnum):
    ABSENT = "absent"
    CREATING = "creating"  # begun and not finished
    RUNNING = "running"
    STOPPED = "stopped"


class Action(StrEnum):
    NOTHING = "nothing"
    CREATE = "create"  # send the create again
    ADOPT = "adopt"  # it runs as wanted: take over the phases it went through
    STOPPED = "stopped"  # it powered off, and nobody has told: it goes the way of every machine that has
    DESTROY = "destroy"  # send the delete again
    GONE = "gone"  # the machine vanished: its job must get another
    FORGET = "forget"  # deleted as wanted
    QUESTION = "question"  # it may be a stray that works: see STRAY


ACTION: Final[Mapping[tuple[Wanted, Seen], Action]] = {
    (Wanted.CREATED, Seen.ABSENT): Action.CREATE,
    (Wanted.CREATED, Seen.CREATING): Action.CREATE,
    (Wanted.CREATED, Seen.RUNNING): Action.ADOPT,
    (Wanted.CREATED, Seen.STOPPED): Action.STOPPED,
    (Wanted.PRESENT, Seen.ABSENT): Action.GONE,
    (Wanted.PRESENT, Seen.CREATING): Action.GONE,
    (Wanted.PRESENT, Seen.RUNNING): Action.ADOPT,
    (Wanted.PRESENT, Seen.STOPPED): Action.STOPPED,
    (Wanted.ABSENT, Seen.ABSENT): Action.FORGET,
    (Wanted.ABSENT, Seen.CREATING): Action.DESTROY,
    (Wanted.ABSENT, Seen.RUNNING): Action.DESTROY,
    (Wanted.ABSENT, Seen.STOPPED): Action.DESTROY,
    (Wanted.ENDED, Seen.ABSENT): Action.NOTHING,
    (Wanted.ENDED, Seen.CREATING): Action.DESTROY,
    (Wanted.ENDED, Seen.RUNNING): Action.QUESTION,
    (Wanted.ENDED, Seen.STOPPED): Action.DESTROY,
    (Wanted.UNKNOWN, Seen.ABSENT): Action.NOTHING,
    (Wanted.UNKNOWN, Seen.CREATING): Action.QUESTION,
    (Wanted.UNKNOWN, Seen.RUNNING): Action.QUESTION,
    (Wanted.UNKNOWN, Seen.STOPPED): Action.QUESTION,
}


class Claim(StrEnum):
    """What forges say of the runner in a machine that should not be there."""

    FREE = "free"  # there is none of that name, or it had no job and is deregistered now
    BUSY = "busy"
    NOBODYS = "nobody's"  # no pool gives such names, so no forge can be asked


class StrayAction(StrEnum):
    DESTROY = "destroy"
    ASK_LATER = "ask later"  # its runner works: it goes when that has ended
    KEEP = "keep"  # somebody may miss it: people must look


STRAY: Final[Mapping[tuple[Wanted, Claim], StrayAction]] = {
    (Wanted.ENDED, Claim.FREE): StrayAction.DESTROY,
    (Wanted.ENDED, Claim.BUSY): StrayAction.ASK_LATER,
    (Wanted.ENDED, Claim.NOBODYS): StrayAction.DESTROY,  # it was ours, and its entity is not served any more
    (Wanted.UNKNOWN, Claim.FREE): StrayAction.DESTROY,
    (Wanted.UNKNOWN, Claim.BUSY): StrayAction.ASK_LATER,
    (Wanted.UNKNOWN, Claim.NOBODYS): StrayAction.KEEP,  # of a database restored from a backup, say
}

_WANTED: Final[Mapping[Status, Wanted]] = {
    Status.PENDING_CREATE: Wanted.CREATED,
    Status.CREATING: Wanted.CREATED,
    Status.RUNNING: Wanted.PRESENT,
    Status.STOPPED: Wanted.ABSENT,
    Status.ERROR: Wanted.ABSENT,
    Status.PENDING_DELETE: Wanted.ABSENT,
    Status.PENDING_FORCE_DELETE: Wanted.ABSENT,
    Status.DELETING: Wanted.ABSENT,
    Status.DELETED: Wanted.ENDED,
}


class Difference(msgspec.Struct, frozen=True):
    instance_id: str
    action: Action


def wanted(instance: Instance | None) -> Wanted:
    return Wanted.UNKNOWN if instance is None else _WANTED[instance.status]


def reconcile(instances: Iterable[Instance], seen: Mapping[str, Seen]) -> list[Difference]:
    """Compare the instances that should be on a host with its inventory.

    Args:
        instances: those of this host that are not deleted, and those in the inventory that are.
        seen: instance id to state, the host's whole inventory.
    """
    known = {instance.id: instance for instance in instances}
    ids = sorted(known.keys() | seen.keys())
    differences = (Difference(i, ACTION[wanted(known.get(i)), seen.get(i, Seen.ABSENT)]) for i in ids)
    return [d for d in differences if d.action is not Action.NOTHING]
