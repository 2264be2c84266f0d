"""What forges and clouds list against our instances: two tables, one answer for every pair, nothing at first sight.

Ours is what the instances table knows by name. Names are made from ids and never used twice, so a runner of that name,
at that entity and with the id that the forge gave us is ours; every other one is a stranger and never touched. A
machine that the table does not know is ours when its provider lists it for our pool and its name is one that the pool
gives.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import BOOTING, COMING, Instance, RunnerStatus, Status


class Runner(StrEnum):
    """What we believe of a runner."""

    UNREGISTERED = "unregistered"  # the forge has not given it an id yet, as far as we know
    BOOTING = "booting"
    IDLE = "idle"  # it was up, and has no job that we know of
    ACTIVE = "active"
    STRANDED = "stranded"  # active, on a host that is lost
    GOING = "going"  # its machine is on its way out
    GONE = "gone"  # its machine is no more
    STRANGER = "stranger"


class AtForge(StrEnum):
    ABSENT = "absent"
    OFFLINE = "offline"
    ONLINE = "online"
    BUSY = "busy"


class Machine(StrEnum):
    """What we believe of a machine in a cloud."""

    COMING = "coming"
    RUNNING = "running"
    GOING = "going"
    GONE = "gone"
    ORPHAN = "orphan"  # nobody knows it, and it is ours
    TWIN = "twin"  # its instance has another
    STRANGER = "stranger"


class InCloud(StrEnum):
    ABSENT = "absent"
    STOPPED = "stopped"
    THERE = "there"  # in any other state


class Verdict(StrEnum):
    NOTHING = "nothing"
    MARK_ACTIVE = "mark active"
    RETIRE = "retire"  # deregister, then destroy; kept when the forge says that it is busy
    VANISHED = "vanished"  # the same, and it counts as a failure
    ASK_ABOUT_JOB = "ask about job"  # its machine goes when the forge says that its job has ended
    END_STRANDED = "end stranded"  # the same, or when the forge does not say that it has one
    REMOVE_RUNNER = "remove runner"
    DESTROY = "destroy"  # a machine without an instance
    DESTROY_TWIN = "destroy twin"  # a second machine of one instance


class Rule(msgspec.Struct, frozen=True):
    """`patience`: between the first sighting and the one that it is acted on; all between them must agree."""

    verdict: Verdict
    patience: timedelta = timedelta()
    reason: str = ""


SECOND_LOOK: Final = timedelta(minutes=1)
LONG_OFFLINE: Final = timedelta(minutes=10)
"""GitHub's runners reconnect within seconds, and a busy one is given up by the forge itself before this."""
LONG_ABSENT: Final = timedelta(minutes=30)
"""A runner that is in no list for so long runs nothing, though nobody has told of the end of its job."""
ORPHAN_GRACE: Final = timedelta(minutes=5)

_NOTHING: Final = Rule(Verdict.NOTHING)
_BUSY: Final = Rule(Verdict.MARK_ACTIVE)
_LOST: Final = Rule(Verdict.RETIRE, SECOND_LOOK, "its runner is not at the forge any more and can get no job")
_OFFLINE: Final = Rule(Verdict.RETIRE, LONG_OFFLINE, "its runner has been offline at the forge for long")
_ENDED: Final = Rule(Verdict.ASK_ABOUT_JOB, SECOND_LOOK, "its runner is not at the forge any more")
_STRANDED: Final = Rule(Verdict.END_STRANDED, SECOND_LOOK, "its host is lost, and its runner not at the forge any more")
_SILENT: Final = Rule(Verdict.RETIRE, LONG_OFFLINE, "its host is lost, and its runner offline at the forge for long")
_GHOST: Final = Rule(Verdict.REMOVE_RUNNER, SECOND_LOOK, "a runner without a machine")
_VANISHED: Final = Rule(Verdict.VANISHED, SECOND_LOOK, "the machine is not in its cloud any more")
_STOPPED: Final = Rule(Verdict.RETIRE, SECOND_LOOK, "the machine is switched off")
_LEFT: Final = Rule(Verdict.DESTROY, SECOND_LOOK, "it was deleted and is there")
_TWIN: Final = Rule(Verdict.DESTROY_TWIN, SECOND_LOOK, "a second machine of one instance")
_ORPHAN: Final = Rule(Verdict.DESTROY, ORPHAN_GRACE, "a machine that nobody knows")

FORGE: Final[Mapping[tuple[Runner, AtForge], Rule]] = {
    (Runner.UNREGISTERED, AtForge.ABSENT): _NOTHING,
    (Runner.UNREGISTERED, AtForge.OFFLINE): _NOTHING,  # its answer is on its way, or is asked for again
    (Runner.UNREGISTERED, AtForge.ONLINE): _NOTHING,
    (Runner.UNREGISTERED, AtForge.BUSY): _BUSY,
    (Runner.BOOTING, AtForge.ABSENT): _LOST,
    (Runner.BOOTING, AtForge.OFFLINE): _NOTHING,  # the bootstrap timeout is for those
    (Runner.BOOTING, AtForge.ONLINE): _NOTHING,
    (Runner.BOOTING, AtForge.BUSY): _BUSY,
    (Runner.IDLE, AtForge.ABSENT): _LOST,
    (Runner.IDLE, AtForge.OFFLINE): _OFFLINE,
    (Runner.IDLE, AtForge.ONLINE): _NOTHING,
    (Runner.IDLE, AtForge.BUSY): _BUSY,
    (Runner.ACTIVE, AtForge.ABSENT): _ENDED,
    (Runner.ACTIVE, AtForge.OFFLINE): _NOTHING,  # its job may go on without the network
    (Runner.ACTIVE, AtForge.ONLINE): _NOTHING,
    (Runner.ACTIVE, AtForge.BUSY): _NOTHING,
    (Runner.STRANDED, AtForge.ABSENT): _STRANDED,
    (Runner.STRANDED, AtForge.OFFLINE): _SILENT,
    (Runner.STRANDED, AtForge.ONLINE): _NOTHING,  # its host is only cut off from us
    (Runner.STRANDED, AtForge.BUSY): _NOTHING,
    (Runner.GOING, AtForge.ABSENT): _NOTHING,
    (Runner.GOING, AtForge.OFFLINE): _NOTHING,  # it is being removed with its machine
    (Runner.GOING, AtForge.ONLINE): _NOTHING,
    (Runner.GOING, AtForge.BUSY): _NOTHING,
    (Runner.GONE, AtForge.ABSENT): _NOTHING,
    (Runner.GONE, AtForge.OFFLINE): _GHOST,
    (Runner.GONE, AtForge.ONLINE): _GHOST,
    (Runner.GONE, AtForge.BUSY): _NOTHING,  # the forge ends its job first
    (Runner.STRANGER, AtForge.ABSENT): _NOTHING,
    (Runner.STRANGER, AtForge.OFFLINE): _NOTHING,
    (Runner.STRANGER, AtForge.ONLINE): _NOTHING,
    (Runner.STRANGER, AtForge.BUSY): _NOTHING,
}

CLOUD: Final[Mapping[tuple[Machine, InCloud], Rule]] = {
    (Machine.COMING, InCloud.ABSENT): _NOTHING,
    (Machine.COMING, InCloud.STOPPED): _NOTHING,
    (Machine.COMING, InCloud.THERE): _NOTHING,
    (Machine.RUNNING, InCloud.ABSENT): _VANISHED,
    (Machine.RUNNING, InCloud.STOPPED): _STOPPED,
    (Machine.RUNNING, InCloud.THERE): _NOTHING,
    (Machine.GOING, InCloud.ABSENT): _NOTHING,  # the delete says so itself
    (Machine.GOING, InCloud.STOPPED): _NOTHING,
    (Machine.GOING, InCloud.THERE): _NOTHING,
    (Machine.GONE, InCloud.ABSENT): _NOTHING,
    (Machine.GONE, InCloud.STOPPED): _LEFT,
    (Machine.GONE, InCloud.THERE): _LEFT,
    (Machine.ORPHAN, InCloud.ABSENT): _NOTHING,
    (Machine.ORPHAN, InCloud.STOPPED): _ORPHAN,
    (Machine.ORPHAN, InCloud.THERE): _ORPHAN,
    (Machine.TWIN, InCloud.ABSENT): _NOTHING,
    (Machine.TWIN, InCloud.STOPPED): _TWIN,
    (Machine.TWIN, InCloud.THERE): _TWIN,
    (Machine.STRANGER, InCloud.ABSENT): _NOTHING,
    (Machine.STRANGER, InCloud.STOPPED): _NOTHING,
    (Machine.STRANGER, InCloud.THERE): _NOTHING,
}

_BELIEVED: Final[Mapping[RunnerStatus, Runner]] = {
    RunnerStatus.PENDING: Runner.BOOTING,
    RunnerStatus.INSTALLING: Runner.BOOTING,
    RunnerStatus.IDLE: Runner.IDLE,
    RunnerStatus.OFFLINE: Runner.IDLE,
    RunnerStatus.ACTIVE: Runner.ACTIVE,
    RunnerStatus.FAILED: Runner.GOING,
    RunnerStatus.TERMINATED: Runner.GOING,
}


class ListedRunner(msgspec.Struct, frozen=True):
    id: int
    name: str
    state: AtForge


class ListedMachine(msgspec.Struct, frozen=True):
    provider_id: str
    name: str
    state: InCloud


class Sight(msgspec.Struct, frozen=True):
    """One pair that is not as it should be. `listed` is None when it is the listing that lacks it."""

    name: str
    rule: Rule
    instance: Instance | None
    listed: ListedRunner | ListedMachine | None = None
    lasted: timedelta = timedelta()  # since it was first seen, and at every look from then on

    @property
    def key(self) -> str:
        """What is suspected: the name, or one of several machines of it."""
        if self.rule.verdict in (Verdict.DESTROY, Verdict.DESTROY_TWIN) and isinstance(self.listed, ListedMachine):
            return f"{self.name} {self.listed.provider_id}"
        return self.name


class Suspicion(msgspec.Struct, frozen=True):
    rule: Rule
    since: datetime


def at_forge(
    entity_id: str, instances: Iterable[Instance], listed: Iterable[ListedRunner], lost: Set[str] = frozenset()
) -> list[Sight]:
    """Compare a complete list of an entity's runners with the instances.

    Args:
        instances: those of the entity that were not deleted before the listing began, and those of names listed.
        lost: hosts that are lost.
    """
    by_name = {runner.name: runner for runner in listed}
    ours = {instance.name: instance for instance in instances if instance.entity_id == entity_id}
    sights = []
    for name, instance in ours.items():
        runner = by_name.get(name)
        state = runner.state if runner else AtForge.ABSENT
        sights.append(Sight(name, FORGE[runner_of(instance, runner, lost), state], instance, runner))
    return [sight for sight in sights if sight.rule.verdict is not Verdict.NOTHING]


def runner_of(instance: Instance, listed: ListedRunner | None, lost: Set[str] = frozenset()) -> Runner:
    """What we believe of an instance's runner."""
    if listed is not None and instance.forge_runner_id not in (0, listed.id):
        return Runner.STRANGER  # another of that name: nothing is known of the one that we had
    if instance.status is Status.DELETED:
        return Runner.GONE
    if instance.status not in COMING:
        return Runner.GOING
    if not instance.forge_runner_id and instance.runner_status in BOOTING:
        return Runner.UNREGISTERED
    believed = _BELIEVED[instance.runner_status]
    return Runner.STRANDED if believed is Runner.ACTIVE and instance.host in lost else believed


def in_cloud(pool: Pool, instances: Iterable[Instance], listed: Iterable[ListedMachine]) -> list[Sight]:
    """Compare a complete list of a pool's machines with the instances.

    Args:
        instances: those of the pool that were not deleted before the listing began, and those of names listed.
    """
    by_name: dict[str, list[ListedMachine]] = {}
    for machine in listed:
        by_name.setdefault(machine.name, []).append(machine)
    known = {instance.name: instance for instance in instances}
    sights = []
    for name in [*known, *(name for name in by_name if name not in known)]:
        instance, machines = known.get(name), by_name.get(name, [])
        kind = machine_of(pool, name, instance)
        if instance is None or kind is Machine.GONE:
            sights += [Sight(name, CLOUD[kind, machine.state], instance, machine) for machine in machines]
            continue
        mine = _own(instance, machines)
        state = mine.state if mine else InCloud.ABSENT
        sights.append(Sight(name, CLOUD[kind, state], instance, mine))
        twins = [machine for machine in machines if _is_twin(kind, instance, machine, mine)]
        sights += [Sight(name, CLOUD[Machine.TWIN, twin.state], instance, twin) for twin in twins]
    return [sight for sight in sights if sight.rule.verdict is not Verdict.NOTHING]


def _own(instance: Instance, machines: Sequence[ListedMachine]) -> ListedMachine | None:
    """The instance's machine: one that is on before one that is off, and then the one whose id we were given."""
    order = sorted(machines, key=lambda m: (m.state is InCloud.STOPPED, m.provider_id != instance.provider_id))
    return next(iter(order), None)


def _is_twin(kind: Machine, instance: Instance, machine: ListedMachine, mine: ListedMachine | None) -> bool:
    """Whether a machine is to go because the instance has another: a cloud without unique names may make two.

    Both have the same token, and nobody can tell which of them has called. Before any has, the one goes whose id we
    were not given; afterwards only one that is off, which is what the other becomes when it is given no runner.
    """
    if kind is not Machine.RUNNING or mine is None or machine == mine or mine.state is not InCloud.THERE:
        return False
    has_called = instance.runner_status is not RunnerStatus.PENDING
    return machine.state is InCloud.STOPPED or (not has_called and mine.provider_id == instance.provider_id)


def machine_of(pool: Pool, name: str, instance: Instance | None) -> Machine:
    """What we believe of a machine of that name in the pool."""
    if instance is None:
        return Machine.ORPHAN if gives(pool, name) else Machine.STRANGER
    if instance.pool_id != pool.id:
        return Machine.STRANGER
    if instance.status is Status.DELETED:
        return Machine.GONE
    if instance.status is Status.RUNNING:
        return Machine.RUNNING
    return Machine.COMING if instance.status in COMING else Machine.GOING


def gives(pool: Pool, name: str) -> bool:
    """Whether the pool gives its machines such names."""
    return re.fullmatch(rf"{re.escape(pool.runner_prefix)}-[0-9a-f]{{12}}", name) is not None


def judge(
    before: Mapping[str, Suspicion], sights: Iterable[Sight], now: datetime
) -> tuple[dict[str, Suspicion], list[Sight]]:
    """What is suspected after one more complete listing, and what is to be acted on.

    One listing that shows nothing wrong clears a name. A listing that failed is none, and is not given to this.
    """
    suspected: dict[str, Suspicion] = {}
    proven: list[Sight] = []
    for sight in sights:
        known = before.get(sight.key)
        since = known.since if known and known.rule == sight.rule and known.since <= now else now
        suspected[sight.key] = Suspicion(sight.rule, since)
        if now - since >= sight.rule.patience:
            proven.append(msgspec.structs.replace(sight, lasted=now - since))
    return suspected, proven
