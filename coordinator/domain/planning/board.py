"""Everything that the planner knows, indexed, and kept in step one fact at a time.

A board that was told the facts in any order equals one that was made of them at once.
"""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from heapq import heappop, heappush

from coordinator.domain.absence import Presence, presence
from coordinator.domain.fleet import Admission, Entity, EntityKind, Host, Placement, Pool
from coordinator.domain.images import Catalogue, Image, Reach, reach
from coordinator.domain.instance import BOOTING, COMING, Instance, Status
from coordinator.domain.job import Job
from coordinator.domain.labels import Labels, serve
from coordinator.domain.planning.agenda import Agenda
from coordinator.domain.planning.demand import Cover, cover
from coordinator.domain.planning.hosts import REACHED, HostIndex, Kind, ranked
from coordinator.domain.planning.neighbours import Neighbours
from coordinator.domain.planning.newest import Newest
from coordinator.domain.planning.serving import Serving
from coordinator.domain.planning.waiting import Waiting
from coordinator.domain.resources import Resources
from coordinator.domain.world import Policy, Waits, World

_MAKING = (Status.PENDING_CREATE, Status.CREATING)


class Board:
    def __init__(self, policy: Policy, clouds: Mapping[str, int]) -> None:
        self.policy = policy
        self.clouds = clouds
        self.now = datetime.min.replace(tzinfo=UTC)
        self.images: Catalogue = {}
        self.pools: dict[str, Pool] = {}
        self.entities: dict[str, Entity] = {}
        self.hosts: dict[str, Host] = {}
        self.host_names: list[str] = []  # in order
        self.able: dict[Kind, list[str]] = {}  # hosts that could ever take one, where these are known to be few
        self.instances: dict[str, Instance] = {}
        self.waiting = Waiting()
        self.agenda = Agenda()
        self.held: dict[str, Job] = {}  # queued jobs that failed too often and rest
        # Tallies of the instances.
        self.in_pool: Counter[str] = Counter()
        self.of_entity: Counter[str] = Counter()
        self.making: Counter[str] = Counter()  # by host, and by cloud
        self.free: dict[str, Resources] = {}
        self.neighbours = Neighbours()
        self.serving = Serving()
        self.newest = Newest(self.instances)
        self.overdue: set[str] = set()  # instances whose deadline has passed
        self.outdated: set[str] = set()  # idle instances of an older generation of their pool
        self.keepers: set[str] = set()  # pools that keep idle runners
        self.on_host: defaultdict[str, set[str]] = defaultdict(set)  # host to its instances
        self.missing: set[str] = set()  # hosts that are away for so long that nothing of theirs is counted on
        self.lost: set[str] = set()  # those of them that are lost
        self.draining: set[str] = set()  # hosts
        self._timers: list[tuple[datetime, str, str]] = []
        self._covers: dict[str, Cover] = {}
        self._matches: dict[tuple[str, Labels], list[Pool]] = {}
        self._indexes: dict[Kind, HostIndex] = {}
        self._touched: dict[Kind, set[str]] = {}

    # --- facts ---

    @classmethod
    def of(cls, world: World) -> "Board":
        board = cls(world.policy, world.clouds)
        for entity in world.entities:
            board.put_entity(entity)
        board.put_images(world.images)
        for host in world.hosts:
            board.put_host(host)
        for pool in world.pools:
            board.put_pool(pool)
        for instance in world.instances:
            board.put_instance(instance)
        for job in world.jobs:
            board.put_job(job)
        return board

    def put_entity(self, entity: Entity) -> None:
        if self.entities.get(entity.id) == entity:
            return
        self.entities[entity.id] = entity
        self.waiting.rank(entity.id, lambda labels: self._priority(entity.id, labels))
        self._demand_changed(entity.id)

    def put_images(self, images: Iterable[Image]) -> None:
        """The whole catalogue."""
        new = {(image.name, image.arch): image for image in images}
        if new != self.images:
            self.images = new
            self._indexes.clear()
            self._touched.clear()
            self.able.clear()
            self.agenda.reopen_all()

    def put_pool(self, pool: Pool) -> None:
        old = self.pools.get(pool.id)
        if old == pool:
            return
        self.pools[pool.id] = pool
        self.agenda.reopen(pool.entity_id)
        if old is not None:
            self.agenda.reopen(old.entity_id)
            if old.share_hosts is not pool.share_hosts:
                self.agenda.reopen_all()
        self._matches.clear()
        if pool.min_idle > 0:
            self.keepers.add(pool.id)
        else:
            self.keepers.discard(pool.id)
        self.neighbours.put_pool(pool)
        for instance in self.serving.of_pool(pool.id).values():
            self._date(instance)
        if pool.cool_until is not None:
            heappush(self._timers, (pool.cool_until, "pool", pool.id))

    def put_host(self, host: Host) -> None:
        old = self.hosts.get(host.name)
        if old is None:
            insort(self.host_names, host.name)
        if old != host:
            self.able.clear()
        if host.capacity.devices != (old.capacity.devices if old else ()):
            self.agenda.reopen_all()  # what refusals say of devices is not true any more
        self.hosts[host.name] = host
        self.free[host.name] = (
            self.free.get(host.name, Resources()) + host.capacity - (old.capacity if old else Resources())
        )
        if host.admission is Admission.DRAINING:
            self.draining.add(host.name)
        else:
            self.draining.discard(host.name)
        for time in self._turns(host):
            heappush(self._timers, (time, "host", host.name))
        self._look_for(host)
        self.touch(host.name)

    def drop_host(self, name: str) -> None:
        """A host that people have removed; its instances have ended."""
        host = self.hosts.pop(name, None)
        if host is not None:
            self.host_names.remove(name)
            self.able.clear()
            if host.capacity.devices:
                self.agenda.reopen_all()
            self.free[name] -= host.capacity
            self.draining.discard(name)
            self.lost.discard(name)
            self._count_on(name, yes=True)
            self.touch(name)

    def put_job(self, job: Job) -> None:
        """A job that is queued, or was."""
        self.drop_job(job.id)
        if job.retry_at is not None and self.now < job.retry_at:
            self.held[job.id] = job
            heappush(self._timers, (job.retry_at, "job", job.id))
            return
        self._demand_changed(self.waiting.put(job, self._priority(job.entity_id, job.labels)))

    def waits(self, job_id: str) -> bool:
        """Whether the job is known as one that is queued."""
        return job_id in self.waiting or job_id in self.held

    def drop_job(self, job_id: str) -> None:
        self.held.pop(job_id, None)
        entity_id = self.waiting.drop(job_id)
        if entity_id is not None:
            self._demand_changed(entity_id)

    def put_instance(self, instance: Instance) -> None:
        old = self.instances.get(instance.id)
        known = old is not None and (old.entity_id, old.created_at) == (instance.entity_id, instance.created_at)
        self.drop_instance(instance.id)
        if instance.status is Status.DELETED:
            return
        self.instances[instance.id] = instance
        self._tally(instance, 1)
        self._date(instance)
        if not known:
            self.newest.add(instance, self.of_entity[instance.entity_id])
        deadline = self._deadline(instance)
        if deadline is not None:
            heappush(self._timers, (deadline, "instance", instance.id))

    def drop_instance(self, instance_id: str) -> None:
        old = self.instances.pop(instance_id, None)
        self.overdue.discard(instance_id)
        self.outdated.discard(instance_id)
        if old is not None:
            self._tally(old, -1)

    # --- what follows from the facts ---

    def advance(self, now: datetime) -> None:
        """Time goes on: rests end, deadlines pass."""
        self.now = max(self.now, now)
        while self._timers and self._timers[0][0] <= self.now:
            _, kind, name = heappop(self._timers)
            if kind == "host" and name in self.hosts:
                self.able.clear()
                self._look_for(self.hosts[name])
                self.touch(name)
            elif kind == "pool":
                self.agenda.reopen(self.pools[name].entity_id)
            elif kind == "entity":
                self.agenda.reopen(name)
            elif kind == "job" and name in self.held:
                self.put_job(self.held[name])
            elif kind == "instance" and name in self.instances:
                deadline = self._deadline(self.instances[name])
                if deadline is not None and deadline <= self.now:
                    self.overdue.add(name)

    def next_change(self) -> datetime | None:
        """The earliest moment at which time alone may change the plan."""
        return self._timers[0][0] if self._timers else None

    def cover_of(self, entity_id: str) -> Cover:
        known = self._covers.get(entity_id)
        if known is None or (known.until is not None and self.now >= known.until):
            waiting = self.waiting.of(entity_id)
            trusted, until = self.serving.trusted(entity_id, waiting, self.now, self.policy.idle_trust)
            known = self._covers[entity_id] = cover(waiting, trusted)
            known.until = until
            if until is not None:
                heappush(self._timers, (until, "entity", entity_id))
        return known

    def matching(self, entity_id: str, labels: Labels) -> list[Pool]:
        """The entity's pools that have all the labels, the highest priority first."""
        key = (entity_id, labels)
        if key not in self._matches:
            fit = [p for p in self.pools.values() if p.entity_id == entity_id and serve(p.labels, labels)]
            self._matches[key] = sorted(fit, key=lambda p: (-p.priority, p.name, p.id))
        return self._matches[key]

    def index(self, kind: Kind) -> HostIndex:
        """The hosts for one kind of machine, up to date."""
        if kind not in self._indexes:
            entry = self.images.get((kind.image, kind.arch))
            self._indexes[kind] = HostIndex(lambda host: self._places(kind, entry, host), kind.placement)
            self._touched[kind] = set(self.hosts)
        touched, self._touched[kind] = self._touched[kind], set()
        with_room = [host for host in sorted(touched) if self._indexes[kind].refresh(host)]
        if with_room:
            self.agenda.has_room(kind)
        return self._indexes[kind]

    def reconsider(self) -> None:
        """Open the agenda for those whose machines now may have room on hosts where they had none."""
        for kind in self.agenda.full:
            self.index(kind)

    def close(self, entity_id: str, waits: tuple[Waits, ...], full: Iterable[Kind | str]) -> None:
        """Not to think of the entity before something changes, or one of its jobs has waited too long."""
        self.agenda.close(entity_id, waits, full)
        starving = min((wait.first[0] for wait in waits), default=None)
        if starving is not None:
            time = starving + self.policy.starvation_bound
            if self.agenda.starves_at(entity_id, time):
                heappush(self._timers, (time, "entity", entity_id))

    def touch(self, host: str, *, fuller: bool = False) -> None:
        """Something about a host has changed; `fuller`: it has only got less room."""
        for kind, touched in self._touched.items():
            if not fuller or kind.placement is Placement.PACK:
                touched.add(host)

    def share(self, entity_id: str) -> float:
        """How much of the fleet the entity has, against its weight."""
        return self.of_entity[entity_id] / self.entity(entity_id).weight

    def entity(self, entity_id: str) -> Entity:
        return self.entities.get(entity_id) or Entity(entity_id, "", EntityKind.REPOSITORY, "", "", "")

    def resting(self, until: datetime | None) -> bool:
        return until is not None and self.now < until

    def take(self, pool: Pool, host: str, count: int = 1) -> None:
        """Count a machine that a plan wants; with -1, take it back."""
        self.in_pool[pool.id] += count
        self.of_entity[pool.entity_id] += count
        self.making[host or pool.provider] += count
        if host:
            change = pool.resources if count > 0 else Resources() - pool.resources
            self.free[host] -= change
            self.neighbours.count(host, pool.entity_id, pool.id, count)
            self.touch(host, fuller=count > 0)
        if count < 0:
            self._has_less(pool.entity_id, "" if host else pool.provider)

    def hold(self, pool: Pool, host: str, count: int = 1) -> None:
        """Keep room for a machine to come; with -1, give it back."""
        self.free[host] -= pool.resources if count > 0 else Resources() - pool.resources
        self.neighbours.count(host, pool.entity_id, pool.id, count)
        self.touch(host, fuller=count > 0)

    def _has_less(self, entity_id: str, cloud: str) -> None:
        self.agenda.reopen(entity_id)
        if cloud:
            self.agenda.has_room(cloud)

    def _demand_changed(self, entity_id: str) -> None:
        """Of its jobs, or of the runners that serve them."""
        self._covers.pop(entity_id, None)
        self.agenda.reopen(entity_id)

    def _tally(self, instance: Instance, count: int) -> None:
        self.in_pool[instance.pool_id] += count
        self.of_entity[instance.entity_id] += count
        if instance.status in _MAKING:
            self.making[instance.host or instance.provider] += count
        self._has_less(instance.entity_id, "" if instance.host else instance.provider)
        if instance.host:
            if count > 0:
                self.on_host[instance.host].add(instance.id)
            else:
                self.on_host[instance.host].discard(instance.id)
            free = self.free.get(instance.host, Resources())
            self.free[instance.host] = free - instance.resources if count > 0 else free + instance.resources
            self.neighbours.count(instance.host, instance.entity_id, instance.pool_id, count)
            self.touch(instance.host, fuller=count > 0)
        if instance.host not in self.missing:
            self._tally_serving(instance, count)

    def _tally_serving(self, instance: Instance, count: int) -> None:
        if not instance.serves_demand:
            return
        self.serving.count(instance, count)
        self._demand_changed(instance.entity_id)

    def _look_for(self, host: Host) -> None:
        """Whether it is there, and what follows from it for the jobs that its machines would cover."""
        where = presence(host, self.now, self.policy.host_grace, self.policy.host_lease)
        if where is Presence.LOST:
            self.lost.add(host.name)
        else:
            self.lost.discard(host.name)
        self._count_on(host.name, yes=where not in (Presence.MISSING, Presence.LOST))

    def _count_on(self, host: str, *, yes: bool) -> None:
        if yes is (host not in self.missing):
            return
        if yes:
            self.missing.discard(host)
        else:
            self.missing.add(host)
        for instance_id in self.on_host[host]:
            self._tally_serving(self.instances[instance_id], 1 if yes else -1)

    def _turns(self, host: Host) -> Iterable[datetime]:
        """When time alone changes what the host is."""
        yield from (time for time in (host.cool_until, host.drain_deadline, *host.held.rests.values()) if time)
        if not host.connected and host.disconnected_at is not None:
            yield host.disconnected_at + self.policy.host_grace
            yield host.disconnected_at + self.policy.host_lease

    def _date(self, instance: Instance) -> None:
        pool = self.pools.get(instance.pool_id)
        if pool is not None and instance.is_idle and instance.pool_generation < pool.generation:
            self.outdated.add(instance.id)
        else:
            self.outdated.discard(instance.id)

    def _deadline(self, instance: Instance) -> datetime | None:
        """When time alone makes this instance one to look at."""
        if instance.status not in COMING:
            return None
        if instance.runner_status in BOOTING:
            return instance.bootstrap_deadline
        if instance.serves_demand and instance.idle_since is not None:
            return instance.idle_since + self.policy.idle_grace
        return None

    def _places(self, kind: Kind, entry: Image | None, name: str) -> int:
        """`entry`: the catalogue's of the kind's image; without it no host fetches."""
        host = self.hosts.get(name)
        if host is None or not self._admits(kind, host):
            return 0
        places = self.free[name].times(kind.resources)
        if not places:
            return 0
        own = host.own_images(kind.driver, kind.arch)
        image = reach(own, kind.driver in host.fetches, entry, kind.image, host.held, self.now)
        return ranked(places, image, kind.placement, emulated=host.arch != kind.arch)

    def takes(self, kind: Kind, host: Host) -> bool:
        """Whether the host takes such machines now, where it has room."""
        return self._admits(kind, host) and self.reach(host, kind.driver, kind.arch, kind.image) in REACHED

    def _admits(self, kind: Kind, host: Host) -> bool:
        offered = host.arch == kind.arch or (kind.driver, kind.arch) in host.emulated
        passes = not kind.resources.devices or kind.driver in host.passes
        return offered and passes and not host.closed and not self.resting(host.cool_until)

    def reach(self, host: Host, driver: str, arch: str, image: str) -> Reach:
        """Whether a machine of that image can be made there."""
        own, entry = host.own_images(driver, arch), self.images.get((image, arch))
        return reach(own, driver in host.fetches, entry, image, host.held, self.now)

    def _priority(self, entity_id: str, labels: Labels) -> int:
        """Of the entity's jobs with these labels."""
        entity = self.entity(entity_id)
        named = [entity.label_priorities[label] for label in labels if label in entity.label_priorities]
        return max(named, default=entity.priority)


def oldest_first(instances: Iterable[Instance]) -> list[Instance]:
    return sorted(instances, key=lambda i: (i.pool_generation, i.created_at, i.id))
