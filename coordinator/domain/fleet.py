"""What instances are made from and where: entities, flavors, pools and hosts."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec

from coordinator.domain.images import Held
from coordinator.domain.labels import Labels
from coordinator.domain.resources import Resources
from hostler.network import NetworkAccess, NetworkPolicy


class ForgeKind(StrEnum):
    GITHUB = "github"  # and GHES
    GITEA = "gitea"


class EntityKind(StrEnum):
    REPOSITORY = "repository"
    ORGANIZATION = "organization"
    ENTERPRISE = "enterprise"  # GitHub's
    INSTANCE = "instance"  # a whole Gitea

    @property
    def word(self) -> str:
        """What people call it."""
        return "forge instance" if self is EntityKind.INSTANCE else self.value

    @property
    def table(self) -> str:
        """Of a document that declares some."""
        return self.word.replace(" ", "_")


class AuthKind(StrEnum):
    """How we prove to a forge who we are."""

    TOKEN = "pat"  # noqa: S105 (what GARM calls a user's token)
    APP = "app"  # of a GitHub App that is installed there


class Balancer(StrEnum):
    """How an entity's pools are used (GARM: pool balancer type)."""

    ROUNDROBIN = "roundrobin"  # each in its turn
    PACK = "pack"  # always the first that has room


class Placement(StrEnum):
    """Which of the hosts that fit is taken."""

    SPREAD = "spread"  # the emptiest
    PACK = "pack"  # the fullest


class Admission(StrEnum):
    """Whether a host takes new machines, as people have said."""

    OPEN = "open"
    CORDONED = "cordoned"  # no new ones; what runs goes on
    DRAINING = "draining"  # no new ones, and what has no job goes
    DRAINED = "drained"  # it was draining, and is empty


class Endpoint(msgspec.Struct, frozen=True):
    """One forge server."""

    id: str
    name: str
    kind: ForgeKind
    base_url: str  # what people open; the host of a job's html_url
    api_base_url: str
    ca_bundle: str = ""  # PEM; who may vouch for it besides those whom the system trusts


class Credentials(msgspec.Struct, frozen=True):
    """Who we are to a forge; the secret itself is for the store and the forge's client alone."""

    id: str
    name: str
    endpoint_id: str
    registrations_per_minute: int = 0  # at most that many runners; 0: the endpoint sets no limit


class EntityName(NamedTuple):
    """What an entity is called at its endpoint."""

    kind: EntityKind
    owner: str  # of a repository; else the organization's or enterprise's own name, or the endpoint's
    name: str = ""  # of a repository

    @property
    def full(self) -> str:
        return f"{self.owner}/{self.name}" if self.name else self.owner

    @property
    def path(self) -> str:
        """Where it is found beneath its forge's address."""
        match self.kind:
            case EntityKind.ENTERPRISE:
                return f"enterprises/{self.owner}"
            case EntityKind.INSTANCE:
                return ""
        return self.full


class Entity(msgspec.Struct, frozen=True):
    """Whose jobs are run. Owner and name are as in EntityName."""

    id: str
    endpoint_id: str
    kind: EntityKind
    owner: str
    name: str
    credentials_id: str
    weight: float = 1.0  # its fair share against others'
    quota: int | None = None  # at most that many machines at once
    priority: int = 0  # class of its jobs: higher goes first
    label_priorities: Mapping[str, int] = {}  # of jobs with such a label, instead
    balancer: Balancer = Balancer.ROUNDROBIN

    @property
    def named(self) -> EntityName:
        return EntityName(self.kind, self.owner, self.name)

    @property
    def full_name(self) -> str:
        return self.named.full

    def registration_url(self, endpoint: Endpoint) -> str:
        """What its runners' programs call it by."""
        return f"{endpoint.base_url}/{self.named.path}".rstrip("/")


class Flavor(msgspec.Struct, frozen=True):
    """A size of machine by its name; of a cloud, which knows its flavors itself, the name alone."""

    name: str
    resources: Resources = Resources()


class Pool(msgspec.Struct, frozen=True):
    id: str
    name: str
    entity_id: str
    provider: (
        str  # a driver of agents (libvirt, lxd, lxd-container, simulated) or the name of a configured cloud provider
    )
    image: str
    flavor: Flavor
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
    min_idle: int = 0  # idle runners kept beyond what jobs need
    generation: int = 0  # counts changes of what its machines are made of
    placement: Placement = Placement.SPREAD
    share_hosts: bool = True  # whether its machines may be beside those of other entities
    network: NetworkAccess = NetworkAccess(NetworkPolicy.INTERNET)  # what machines on our own hosts may reach
    proxy_id: str = ""  # by which its machines reach the outside; empty: directly
    failures: int = 0  # machines in a row that came to nothing
    cool_until: datetime | None = None
    fault: str = ""  # why the last one came to nothing

    @property
    def resources(self) -> Resources:
        """What one of its machines takes of a host."""
        return self.flavor.resources


class Host(msgspec.Struct, frozen=True):
    name: str
    arch: str
    capacity: Resources
    drivers: dict[str, frozenset[str]]  # driver to images that the host's own configuration has, for its own `arch`
    connected: bool
    failures: int = 0
    cool_until: datetime | None = None
    drivers_out: dict[str, str] = {}  # drivers that cannot be used now, and why; not among `drivers`
    fetches: frozenset[str] = frozenset()  # drivers that boot images of the catalogue
    passes: frozenset[str] = frozenset()  # drivers that pass devices of the host through to machines
    held: Held = Held()
    disconnected_at: datetime | None = None  # since when it is away while a coordinator was there to be connected to
    admission: Admission = Admission.OPEN
    admission_reason: str = ""  # what the person who said so gave as reason
    drain_deadline: datetime | None = None
    pressure: str = ""  # what it is short of, as its agent says, for people; empty: of nothing
    emulated: Mapping[tuple[str, str], frozenset[str]] = {}  # driver and another architecture, to images as above

    def own_images(self, driver: str, arch: str) -> frozenset[str] | None:
        """Those of its own configuration; None: it makes no such machines."""
        return self.drivers.get(driver) if arch == self.arch else self.emulated.get((driver, arch))

    @property
    def closed(self) -> str:
        """Why it takes no new machine of any kind, for people; empty when it does."""
        if not self.connected:
            return "is not connected"
        if self.admission is not Admission.OPEN:
            return f"is {self.admission}" + (f" ({self.admission_reason})" if self.admission_reason else "")
        return f"takes nothing more: {self.pressure}" if self.pressure else ""
