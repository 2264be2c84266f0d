"""What should be against what a host holds: one table, one answer for every pair."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from coordinator.domain.instance import Instance, Status


class Wanted(StrEnum):
    CREATED = "created"  # a create is under way
    PRESENT = "present"  # it was seen running
    ABSENT = "absent"  # it is being deleted, or is deleted
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
    ORPHAN = "orphan"  # destroy after a grace, unless it becomes known


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
    (Wanted.UNKNOWN, Seen.ABSENT): Action.NOTHING,
    (Wanted.UNKNOWN, Seen.CREATING): Action.ORPHAN,
    (Wanted.UNKNOWN, Seen.RUNNING): Action.ORPHAN,
    (Wanted.UNKNOWN, Seen.STOPPED): Action.ORPHAN,
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
    Status.DELETED: Wanted.ABSENT,
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
