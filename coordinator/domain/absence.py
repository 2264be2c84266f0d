"""Hosts that are away, and hosts that are to be emptied: what becomes of their instances, by two tables. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from coordinator.domain.fleet import Admission, Host
from coordinator.domain.instance import BOOTING, COMING, Instance, RunnerStatus


class Presence(StrEnum):
    HERE = "connected"
    AWAY = "away"  # for less than the grace: agents are restarted, networks have their moments
    MISSING = "missing"  # for longer: its machines may be well, but nothing is built on them
    LOST = "lost"  # for longer than its lease


class Emptying(StrEnum):
    NO = "no"
    DRAINING = "draining"
    OVERDUE = "overdue"  # its drain has a deadline, which is over


class Doing(StrEnum):
    """What an instance is doing."""

    BOOTING = "booting"  # being made, or its runner is not up yet
    IDLE = "idle"
    BUSY = "busy"
    GOING = "going"  # to be destroyed


class Fate(StrEnum):
    KEEP = "keep"
    DOUBT = "doubt"  # kept, but it covers no job
    LOSE = "lose"  # deregistered, then its row ends; kept when the forge says that it is busy
    END = "end"  # its row ends
    RETIRE = "retire"  # deregistered, then destroyed; kept when the forge says that it is busy
    STOP = "stop"  # destroyed whatever it does: only where a person has set a deadline


OF_ABSENCE: Final[Mapping[tuple[Presence, Doing], Fate]] = {
    (Presence.HERE, Doing.BOOTING): Fate.KEEP,
    (Presence.HERE, Doing.IDLE): Fate.KEEP,
    (Presence.HERE, Doing.BUSY): Fate.KEEP,
    (Presence.HERE, Doing.GOING): Fate.KEEP,
    (Presence.AWAY, Doing.BOOTING): Fate.KEEP,
    (Presence.AWAY, Doing.IDLE): Fate.KEEP,
    (Presence.AWAY, Doing.BUSY): Fate.KEEP,
    (Presence.AWAY, Doing.GOING): Fate.KEEP,
    (Presence.MISSING, Doing.BOOTING): Fate.DOUBT,
    (Presence.MISSING, Doing.IDLE): Fate.DOUBT,
    (Presence.MISSING, Doing.BUSY): Fate.KEEP,
    (Presence.MISSING, Doing.GOING): Fate.KEEP,
    (Presence.LOST, Doing.BOOTING): Fate.LOSE,
    (Presence.LOST, Doing.IDLE): Fate.LOSE,
    (Presence.LOST, Doing.BUSY): Fate.KEEP,  # the forge says when it has ended
    (Presence.LOST, Doing.GOING): Fate.END,
}

OF_DRAIN: Final[Mapping[tuple[Emptying, Doing], Fate]] = {
    (Emptying.NO, Doing.BOOTING): Fate.KEEP,
    (Emptying.NO, Doing.IDLE): Fate.KEEP,
    (Emptying.NO, Doing.BUSY): Fate.KEEP,
    (Emptying.NO, Doing.GOING): Fate.KEEP,
    (Emptying.DRAINING, Doing.BOOTING): Fate.RETIRE,
    (Emptying.DRAINING, Doing.IDLE): Fate.RETIRE,
    (Emptying.DRAINING, Doing.BUSY): Fate.KEEP,
    (Emptying.DRAINING, Doing.GOING): Fate.KEEP,
    (Emptying.OVERDUE, Doing.BOOTING): Fate.RETIRE,
    (Emptying.OVERDUE, Doing.IDLE): Fate.RETIRE,
    (Emptying.OVERDUE, Doing.BUSY): Fate.STOP,
    (Emptying.OVERDUE, Doing.GOING): Fate.KEEP,
}


class Streamed(Protocol):
    """What is known of a host's stream."""

    @property
    def connected(self) -> bool: ...

    @property
    def disconnected_at(self) -> datetime | None: ...


def presence(host: Streamed, now: datetime, grace: timedelta, lease: timedelta) -> Presence:
    """Where the host is, as far as one can tell. `grace` and `lease` both count from when its stream ended."""
    if host.connected or host.disconnected_at is None:
        return Presence.HERE if host.connected else Presence.AWAY
    away = now - host.disconnected_at
    if away < grace:
        return Presence.AWAY
    return Presence.MISSING if away < lease else Presence.LOST


def emptying(host: Host, now: datetime) -> Emptying:
    if host.admission is not Admission.DRAINING:
        return Emptying.NO
    over = host.drain_deadline is not None and now >= host.drain_deadline
    return Emptying.OVERDUE if over else Emptying.DRAINING


def doing(instance: Instance) -> Doing:
    if instance.status not in COMING:
        return Doing.GOING
    if instance.job_id or instance.runner_status is RunnerStatus.ACTIVE:
        return Doing.BUSY
    return Doing.BOOTING if instance.runner_status in BOOTING else Doing.IDLE
