"""What instances are made from and where: entities, flavors, pools and hosts."""

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from coordinator.domain.labels import Labels
from coordinator.domain.resources import Resources


class ForgeKind(StrEnum):
    GITHUB = "github"


class EntityKind(StrEnum):
    REPOSITORY = "repository"


class Endpoint(msgspec.Struct, frozen=True):
    """One forge server."""

    id: str
    name: str
    kind: ForgeKind
    base_url: str  # what people open; the host of a job's html_url
    api_base_url: str


class Entity(msgspec.Struct, frozen=True):
    """Whose jobs are run: a repository, and later organizations, enterprises and whole instances."""

    id: str
    endpoint_id: str
    kind: EntityKind
    owner: str
    name: str
    credentials_id: str

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"


class Pool(msgspec.Struct, frozen=True):
    id: str
    name: str
    entity_id: str
    provider: str  # a driver of agents (libvirt, lxd, simulated) or the name of a configured cloud provider
    image: str
    flavor: str
    resources: Resources  # of the flavor; zero for a cloud, which knows its flavors itself
    arch: str
    os_type: str
    labels: Labels
    max_runners: int
    enabled: bool
    priority: int
    runner_prefix: str
    runner_group: str
    bootstrap_timeout: timedelta
    extra_specs: str = "{}"  # JSON, opaque but to the provider
    failures: int = 0  # machines in a row that came to nothing
    cool_until: datetime | None = None


class Host(msgspec.Struct, frozen=True):
    name: str
    arch: str
    capacity: Resources
    drivers: dict[str, frozenset[str]]  # driver to names of the images it can boot
    connected: bool
    failures: int = 0
    cool_until: datetime | None = None
