"""What there is just now, as Prometheus' families. Pure.

Names that begin with `garm_` and their labels are GARM's (its doc/monitoring.md), for what means the same here.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric

from coordinator.domain.fleet import Entity, EntityKind, Pool
from coordinator.store.counted import Counts

_SCOPES: Final = {
    EntityKind.REPOSITORY: "repository",
    EntityKind.ORGANIZATION: "organization",
    EntityKind.ENTERPRISE: "enterprise",
}


_Sample = tuple[Mapping[str, str], float]


class Here(msgspec.Struct, frozen=True):
    """What only this process knows."""

    version: str
    controller_id: str
    metadata_url: str
    callback_url: str
    webhook_url: str
    controller_webhook_url: str
    plans: bool  # it holds the planning lease
    streams: int  # agents that are connected here
    waiting: Mapping[str, int] = {}  # jobs that no machine comes for, by the reason's code; of the one that plans
    budgets: Mapping[str, int] = {}  # registrations that are left of limited credentials, by name; the same
    circuits: Mapping[str, bool] = {}  # providers that were called: whether they are left alone
    providers: tuple[str, ...] = ()  # executables that are configured


def families(counts: Counts, here: Here, now: datetime) -> Iterator[Metric]:
    yield from _of_this_process(here)
    entities = {entity.id: entity for entity in counts.entities}
    yield from _entities(counts.entities)
    yield from _pools(counts.pools, entities)
    yield from _runners(counts, entities)
    yield from _jobs(counts, entities, now)
    yield from _fleet(counts)


def _of_this_process(here: Here) -> Iterator[Metric]:
    urls = {name: getattr(here, name) for name in _HEALTH if name != "controller_id"}
    yield _gauge("garm_health", "The coordinator answers.", [(urls | {"controller_id": here.controller_id}, 1)])
    yield _gauge("hostler_build_info", "Which version this is.", [({"version": here.version}, 1)])
    yield _gauge("hostler_plans", "Whether this coordinator holds the planning lease.", [({}, here.plans)])
    yield _gauge("hostler_streams", "Agents that are connected to this coordinator.", [({}, here.streams)])
    waiting = [({"reason": code}, count) for code, count in sorted(here.waiting.items())]
    yield _gauge("hostler_jobs_without_machine", "Queued jobs that no machine is coming for, by reason.", waiting)
    budgets = [({"credentials": name}, left) for name, left in sorted(here.budgets.items())]
    yield _gauge("hostler_registrations_left", "What is left of a limit on registrations.", budgets)
    circuits = [({"provider": name}, is_open) for name, is_open in sorted(here.circuits.items())]
    yield _gauge("hostler_provider_left_alone", "Whether a provider failed so often that it rests.", circuits)
    told = [({"name": name, "type": "external", "description": ""}, 1) for name in here.providers]
    yield _gauge("garm_provider_info", "Configured provider executables.", told)


_HEALTH: Final = ("metadata_url", "callback_url", "webhook_url", "controller_webhook_url", "controller_id")


def _entities(entities: Iterable[Entity]) -> Iterator[Metric]:
    for kind, scope in _SCOPES.items():
        told = [({"name": entity.full_name, "id": entity.id}, 1) for entity in entities if entity.kind is kind]
        yield _gauge(f"garm_{scope}_info", f"Each declared {scope}.", told)


def _pools(pools: Iterable[Pool], entities: Mapping[str, Entity]) -> Iterator[Metric]:
    info: list[_Sample] = []
    enabled: list[_Sample] = []
    numbers: dict[str, list[_Sample]] = {name: [] for name in _NUMBERS}
    for pool in pools:
        owner = entities.get(pool.entity_id)
        labels = {
            "id": pool.id,
            "image": pool.image,
            "flavor": pool.flavor.name,
            "prefix": pool.runner_prefix,
            "os_type": pool.os_type,
            "os_arch": pool.arch,
            "tags": ",".join(sorted(pool.labels)),
            "provider": pool.provider,
            "pool_owner": owner.full_name if owner else "",
            "pool_type": owner.kind.value if owner else "",
        }
        info.append((labels, 1))
        enabled.append(({"id": pool.id, "enabled": str(pool.enabled).lower()}, 1))
        for name, told in numbers.items():
            told.append(({"id": pool.id}, _NUMBERS[name](pool)))
    yield _gauge("garm_pool_info", "Each pool.", info)
    yield _gauge("garm_pool_status", "Whether a pool is enabled.", enabled)
    for name, told in numbers.items():
        yield _gauge(f"garm_pool_{name}", f"The pool's {name.replace('_', ' ')}.", told)


_NUMBERS: Final = {
    "max_runners": lambda pool: pool.max_runners,
    "min_idle_runners": lambda pool: pool.min_idle,
    "bootstrap_timeout": lambda pool: pool.bootstrap_timeout.total_seconds() / 60,
}


def _runners(counts: Counts, entities: Mapping[str, Entity]) -> Iterator[Metric]:
    pools = {pool.id: pool for pool in counts.pools}
    alike = []
    for one in counts.instances:
        pool = pools.get(one.pool_id)
        owner = entities.get(pool.entity_id) if pool else None
        labels = {
            "pool": pool.name if pool else "",
            "entity": owner.full_name if owner else "",
            "status": one.status,
            "runner_status": one.runner_status,
        }
        alike.append((labels, one.count))
    yield _gauge("hostler_instances", "Machines that are not deleted.", alike)
    each = []
    for instance in counts.alive:
        owner = entities.get(instance.entity_id)
        labels = {
            "name": instance.name,
            "status": instance.status.value,
            "runner_status": instance.runner_status.value,
            "pool_owner": owner.full_name if owner else "",
            "pool_type": owner.kind.value if owner else "",
            "pool_id": instance.pool_id,
            "scaleset_id": "",
            "provider": instance.provider,
        }
        each.append((labels, 1))
    yield _gauge("garm_runner_status", "Each machine that is not deleted.", each)


def _jobs(counts: Counts, entities: Mapping[str, Entity], now: datetime) -> Iterator[Metric]:
    count, oldest = [], []
    for jobs in counts.jobs:
        owner = entities.get(jobs.entity_id)
        labels = {"entity": owner.full_name if owner else "", "status": jobs.status}
        count.append((labels, jobs.count))
        oldest.append((labels, (now - jobs.oldest).total_seconds()))
    yield _gauge("hostler_jobs", "Jobs that have not ended.", count)
    yield _gauge("hostler_jobs_oldest_seconds", "How long ago the oldest of them was queued.", oldest)


def _fleet(counts: Counts) -> Iterator[Metric]:
    hosts = []
    for alike in counts.hosts:
        labels = {
            "arch": alike.arch,
            "connected": str(alike.connected).lower(),
            "admission": alike.admission,
            "short_of": alike.pressure,
        }
        hosts.append((labels, alike.count))
    yield _gauge("hostler_hosts", "Hosts, by how they are.", hosts)
    for amount, unit in (("vcpus", 1), ("memory_mib", 2**20), ("disk_gib", 2**30)):
        name = _UNITS[amount]
        have: dict[str, int] = {}
        for alike in counts.hosts:
            if alike.connected:
                have[alike.arch] = have.get(alike.arch, 0) + getattr(alike, amount) * unit
        told = [({"arch": arch}, value) for arch, value in sorted(have.items())]
        yield _gauge(f"hostler_fleet_{name}", "What connected hosts have for machines.", told)
        used = [({"arch": one.arch}, getattr(one, amount) * unit) for one in counts.used]
        yield _gauge(f"hostler_fleet_{name}_promised", "What is promised to machines on hosts.", used)


_UNITS: Final = {"vcpus": "vcpus", "memory_mib": "memory_bytes", "disk_gib": "disk_bytes"}


def _gauge(name: str, told: str, samples: Iterable[_Sample]) -> Metric:
    family = GaugeMetricFamily(name, told)
    for labels, value in samples:
        family.add_sample(name, dict(labels), float(value))
    return family
