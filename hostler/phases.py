"""How far an instance has come on its host: the words that agent, providers and coordinator share."""

from enum import StrEnum


class Phase(StrEnum):
    """The same values as `hostler.v1.Phase`."""

    ACCEPTED = "accepted"
    DISK = "disk"
    STARTED = "started"
    STOPPED = "stopped"
    FAILED = "failed"
    DELETED = "deleted"
    DELETE_FAILED = "delete_failed"
