"""What must hold at every moment of a run. What must hold in the end is in `quiet`."""

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from tests.simulation.world.rows import InstanceRow
from tests.simulation.world.scenario import CLOUD, FLAVORS, GPUS, STARVES, Kind

if TYPE_CHECKING:
    from tests.simulation.world.world import World

_MAKING: Final = ("pending_create", "creating")
_SERVING: Final = ("pending", "installing", "idle", "offline")
_MINUTE: Final = 60.0
_OVERHEAD_SECONDS: Final = 30.0  # to make a machine and to destroy it
_HEARD_SECONDS: Final = 2.0
"""After which a plan knows what has been said."""
SHORT: Final = "short of disk"
DRAINED: Final = "drained"


class Violation(msgspec.Struct, frozen=True):
    rule: str
    text: str


class Rules:
    """Told of every commit and of everything that happens to machines; keeps what was broken."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._scenario = world.scenario
        self.violations: list[Violation] = []
        self.made_count = 0
        self._on: dict[str, str] = {}  # instance id to the host that was first told to create it
        self._made: Counter[str] = Counter()
        self._doubled: set[str] = set()
        self._known: set[str] = set()  # instances in the database
        self.forgotten: set[str] = set()  # names of instances
        self._closed: dict[tuple[str, str], float] = {}  # hosts that take no machines, by reason, and since when
        self.stops: dict[str, datetime | None] = {}  # hosts that are drained, and when what is busy there is stopped

    def broken(self, rule: str, text: str) -> None:
        violation = Violation(rule, text)
        if violation not in self.violations:
            self._world.log("rules", f"BROKEN: {rule}: {text}")
            self.violations.append(violation)

    # --- machines ---

    def forget(self, row: InstanceRow) -> None:
        """The database does not know it any more: its machine is a stray, and its runner nobody's."""
        self._known.discard(row.id)
        self.forgotten.add(row.name)

    def closed(self, host: str, why: str, *, yes: bool) -> None:
        """A host takes machines or does not, and the coordinator has heard it, or will in a moment."""
        if yes:
            self._closed.setdefault((host, why), self._world.loop.time())
        else:
            self._closed.pop((host, why), None)

    def told_to_create(self, instance_id: str, name: str, host: str) -> None:
        if self._on.setdefault(instance_id, host) != host:
            self.broken("nothing is created twice", f"{name} on {self._on[instance_id]} and on {host}")

    def doubled(self, key: str) -> None:
        """Not the coordinator's doing: it asked once."""
        self._doubled.add(key)

    def made(self, key: str, name: str, place: str) -> None:
        """A machine has started."""
        self._world.log(place, f"machine {name} has started")
        self.made_count += 1
        self._made[key] += 1
        if self._made[key] > 1 and not self._scenario.elsewhere and key not in self._doubled:
            self.broken("nothing is created twice", f"machine {name} was started {self._made[key]} times")

    def lost(self, key: str) -> None:
        """A machine went down with its host: whoever does not know that it had started may make it again."""
        self._made[key] = 0

    def _may_stop(self, host: str) -> bool:
        """A person has said that what is busy there is to be stopped by now."""
        stop = self.stops.get(host)
        return stop is not None and self._world.now() >= stop

    def destroyed_by_command(self, name: str, host: str = "") -> None:
        if self._world.forge.busy(name) and not self._may_stop(host):
            self.broken("no busy runner is killed", f"{name} was destroyed while its job runs")

    # --- commits ---

    def committed(self) -> None:
        rows = self._world.rows.alive()
        self._pools(rows)
        self._quotas(rows)
        self._hosts(rows)
        self._making(rows)
        self._registrations()
        new = [row for row in rows if row.id not in self._known]
        self._known.update(row.id for row in new)
        self._closed_hosts(new)
        if new and self._scenario.kind is Kind.STORM:
            self._shares(rows, new)
        if self._scenario.kind is Kind.STARVING:
            self._starvation(new)
            self._longest_wait(rows)

    def _pools(self, rows: list[InstanceRow]) -> None:
        most = {pool.name: pool.max_runners for pool in self._scenario.pools}
        for pool, count in sorted(Counter(row.pool for row in rows).items()):
            self._within("a pool's max_runners", pool, count, most[pool])

    def _quotas(self, rows: list[InstanceRow]) -> None:
        quotas = {one.name: one.quota for one in self._scenario.repositories}
        for entity, count in sorted(Counter(row.entity for row in rows).items()):
            quota = quotas[entity]
            if quota is not None:
                self._within("a repository's quota", entity, count, quota)

    def _hosts(self, rows: list[InstanceRow]) -> None:
        for spec in self._scenario.hosts:
            here = [row for row in rows if row.host == spec.name]
            needs = [FLAVORS[row.flavor] for row in here]
            capacity = (spec.vcpus, spec.memory_mib, spec.disk_gib)
            for what, used, have in zip(
                ("vCPU", "MiB", "GiB"), map(sum, zip(*needs, strict=True)), capacity, strict=False
            ):
                self._within("a host's capacity", f"{spec.name} {what}", used, have)
            self._within(
                "a host's devices", f"{spec.name} gpu", sum(GPUS.get(row.flavor, 0) for row in here), spec.gpus
            )
            on_host = self._world.hosts[spec.name].machines.values()
            known = [machine for machine in on_host if machine.removing is None and machine.id in self._known]
            self._within("a host's capacity", f"{spec.name} machines", len(known), spec.vcpus)
            gpus = sum(machine.gpus for machine in known)
            self._within("a host's devices", f"{spec.name} machines' gpu", gpus, spec.gpus)
            lonely = {pool.name for pool in self._scenario.pools if not pool.share_hosts}
            if len({row.entity for row in here}) > 1 and lonely & {row.pool for row in here}:
                shared = ", ".join(sorted(f"{row.name} of {row.entity}" for row in here))
                self.broken("no limit is exceeded", f"strangers on {spec.name}: {shared}")

    def _closed_hosts(self, new: list[InstanceRow]) -> None:
        now = self._world.loop.time()
        for row in new:
            for (host, why), since in self._closed.items():
                # What its agent says must have been heard; what people say is in the database.
                known = since if why == DRAINED else self._world.hosts[host].heard_since
                if host == row.host and now > max(since, known) + _HEARD_SECONDS:
                    self.broken("closed hosts are given nothing", f"{row.name} was planned for {host}, which is {why}")

    def _making(self, rows: list[InstanceRow]) -> None:
        making = Counter(row.host or row.provider for row in rows if row.status in _MAKING)
        for place, count in sorted(making.items()):
            limit = self._scenario.cloud_at_once if place == CLOUD else self._scenario.creates_per_host
            self._within("creates at once", place, count, limit)
        self._within("creates at once", "cloud's calls", self._world.cloud.creating, self._scenario.cloud_at_once)

    def _registrations(self) -> None:
        """Where a coordinator is killed, a call that did nothing dies with it: only those that had an effect count."""
        limit = self._scenario.registrations_per_minute
        if not limit:
            return
        now = self._world.loop.time()
        for credentials, calls in self._world.forge.registrations.items():
            while calls and calls[0] <= now - _MINUTE:
                calls.pop(0)
            self._within("registrations a minute", credentials, len(calls), limit)

    def _within(self, what: str, name: str, count: int, limit: int) -> None:
        if count > limit:
            self.broken("no limit is exceeded", f"{what}: {name} has {count}, at most {limit}")

    def look_at_the_queue(self) -> None:
        most, now = self._scenario.served_within, self._world.loop.time()
        for job in self._world.forge.jobs.values():
            if most and job.status == "queued" and now > job.spec.time + 1.0 + most:
                self.broken("nobody waits for a host that is missing", f"job {job.id} waits for more than {most} s")

    def _waiting(self, rows: list[InstanceRow]) -> dict[str, list[datetime]]:
        """Since when jobs that nothing covers wait, by repository. In these scenarios all jobs of one are alike.

        Those of the last second are left out: a plan is a little older than its commit.
        """
        known = self._world.now() - timedelta(seconds=1)
        coming = Counter(row.entity for row in rows if row.runner_status in _SERVING and row.is_coming)
        queued = self._world.rows.queued()
        return {entity: [t for t in times[coming[entity] :] if t < known] for entity, times in queued.items()}

    def _shares(self, rows: list[InstanceRow], new: list[InstanceRow]) -> None:
        """Nobody gets a machine while another, who waits, has less of the fleet for its weight.

        The tolerance is one machine: what has ended since the plan was made.
        """
        weights = {one.name: one.weight for one in self._scenario.repositories}
        count = Counter(row.entity for row in rows)
        waiting = self._waiting(rows)
        for entity in sorted({row.entity for row in new}):
            for other in sorted(waiting):
                if other == entity or not waiting[other]:
                    continue
                before, theirs = (count[entity] - 1) / weights[entity], (count[other] + 1) / weights[other]
                if before > theirs:
                    text = f"{entity} got its machine number {count[entity]}, {other} waits with {count[other]}"
                    self.broken("shares are fair", text)

    def _starvation(self, new: list[InstanceRow]) -> None:
        """Whoever waits beyond the bound goes before all who do not, where all need the same."""
        if len({(pool.flavor, pool.share_hosts) for pool in self._scenario.pools}) > 1:
            return
        bound = timedelta(minutes=self._scenario.starvation_minutes)
        now = self._world.now()
        starved = {
            entity: times[0]
            for entity, times in self._waiting(self._world.rows.alive()).items()
            if times and times[0] < now - bound - timedelta(seconds=1)
        }
        for row in new:
            since = self._world.rows.queued_at(row.for_job)
            for entity, time in sorted(starved.items()):
                if since is not None and entity != row.entity and since > time:
                    text = f"{row.name} was made for {row.entity}, {entity} waits since {time:%H:%M:%S}"
                    self.broken("nobody starves", text)

    def _longest_wait(self, rows: list[InstanceRow]) -> None:
        """The job that starves gets its machine when all have ended that ran when its bound was over, at the latest."""
        longest = max(job.duration for job in self._scenario.jobs)
        bound = self._scenario.starvation_minutes * _MINUTE + longest + _OVERHEAD_SECONDS
        coming = {row.pool for row in rows if row.is_coming}
        pools = [pool for pool in self._scenario.pools if STARVES in pool.labels]
        for job in self._world.forge.jobs.values():
            waited = self._world.loop.time() - job.queued_at
            wanted = STARVES in job.labels and job.status == "queued"
            if wanted and waited > bound and not any(pool.name in coming for pool in pools):
                self.broken("nobody starves", f"job {job.id} waits without end: {waited:.0f} s, at most {bound:.0f}")
