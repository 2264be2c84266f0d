"""How far an instance has come on its host: the words that agent, providers and coordinator share."""

from enum import StrEnum


class Phase(StrEnum):
    """The same values as `hostler.v1.Phase`."""

    ACCEPTED = "accepted"
    FETCHING = "fetching"  # the image is not on the host yet
    IMAGE = "image"  # it is now
    DISK = "disk"
    STARTED = "started"
    STOPPED = "stopped"
    FAILED = "failed"
    DELETED = "deleted"
    DELETE_FAILED = "delete_failed"
