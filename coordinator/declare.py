"""What `hostler apply` may declare, as it arrives: parsed and checked here, stored by the catalog."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from coordinator.declare_image import ImageDeclaration
from coordinator.domain.fleet import Balancer, ForgeKind, Placement
from coordinator.domain.resources import Resources, devices
from hostler import config
from hostler.config import device_name
from hostler.errors import ConfigError
from hostler.network import NetworkPolicy, openings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# 900 points a minute and endpoint, 5 for a write (GitHub REST, rate limits).
_GITHUB_REGISTRATIONS = 180
_PREFIX = re.compile(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?")


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything declared: unknown keys are refused."""


T = TypeVar("T", bound=Declared)


def declaration(kind: type[T], values: Mapping[str, object]) -> T:
    """One object, from values that have the types of its keys.

    Raises:
        ConfigError: one of them is not allowed.
    """
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def changed_declaration(old: T, changes: Mapping[str, object]) -> T:
    """With some of its keys changed.

    Raises:
        ConfigError: the result is not allowed.
    """
    return declaration(type(old), msgspec.structs.asdict(old) | dict(changes))


def _name(key: str, value: str) -> None:
    ok = bool(_NAME.fullmatch(value))
    config.check(ok, f"{key}: '{value}' must be 1 to 100 of letters, digits, '.', '_' and '-'")


def _description(value: str) -> None:
    config.check(len(value) <= 1000, "description: must have at most 1000 characters")


def _url(key: str, value: str) -> None:
    config.check_key(key, lambda: config.web_address(value))
    config.check(not value.endswith("/"), f"{key}: '{value}' must not end with a slash")


class EndpointDeclaration(Declared, frozen=True):
    name: str
    base_url: str = "https://github.com"
    api_base_url: str = "https://api.github.com"
    kind: ForgeKind = ForgeKind.GITHUB
    registrations_per_minute: int | None = None  # of runners, by one credential; 0: no limit
    upload_base_url: str = ""  # kept for clients that ask for it; nothing is uploaded
    description: str = ""

    @property
    def registration_limit(self) -> int:
        """As declared, or what GitHub documents: limited on its own servers, not on a GHES (where it is off)."""
        if self.registrations_per_minute is not None:
            return self.registrations_per_minute
        host = urlsplit(self.api_base_url).hostname or ""
        return _GITHUB_REGISTRATIONS if host == "api.github.com" or host.endswith(".ghe.com") else 0

    def __post_init__(self) -> None:
        _name("name", self.name)
        _url("base_url", self.base_url)
        # Webhooks name their forge by the host alone.
        config.check(not urlsplit(self.base_url).path, f"base_url: '{self.base_url}' must end with the host")
        _url("api_base_url", self.api_base_url)
        if self.upload_base_url:
            _url("upload_base_url", self.upload_base_url)
        _description(self.description)
        per_minute = self.registrations_per_minute
        config.check(per_minute is None or 0 <= per_minute <= 100_000, "registrations_per_minute: must be 0 to 100000")


class CredentialsDeclaration(Declared, frozen=True):
    name: str
    endpoint: str
    token: str
    description: str = ""

    def __post_init__(self) -> None:
        _name("name", self.name)
        _description(self.description)
        ok = self.token.isascii() and self.token.isprintable() and " " not in self.token
        config.check(bool(self.token) and ok, "token: must not be empty, nor hold spaces or line breaks")

    def __repr__(self) -> str:
        return f"CredentialsDeclaration(name={self.name!r}, endpoint={self.endpoint!r})"


class RepositoryDeclaration(Declared, frozen=True):
    endpoint: str
    owner: str
    name: str
    credentials: str
    webhook_secret: str
    weight: float = 1.0
    quota: int | None = None
    priority: int = 0
    label_priorities: dict[str, int] = {}
    balancer: Balancer = Balancer.ROUNDROBIN

    def __post_init__(self) -> None:
        _name("owner", self.owner)
        config.check(0.01 <= self.weight <= 1000, "weight: must be 0.01 to 1000")
        config.check(self.quota is None or self.quota >= 0, "quota: must be 0 or more")
        priorities = [self.priority, *self.label_priorities.values()]
        config.check(all(-100 <= one <= 100 for one in priorities), "priority: must be -100 to 100, also of labels")
        _name("name", self.name)
        config.check(len(self.webhook_secret) >= 16, "webhook_secret: must have at least 16 characters")

    def __repr__(self) -> str:
        return f"RepositoryDeclaration({self.owner}/{self.name})"


# A job that asks for the one must never get a machine of the other.
_ARCH_OF_LABEL: Final = {"x64": "amd64", "x86_64": "amd64", "amd64": "amd64", "arm64": "arm64", "aarch64": "arm64"}


class FlavorDeclaration(Declared, frozen=True):
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    devices: dict[str, int] = {}  # of the host, by the name that agents give them; each machine has its own

    def __post_init__(self) -> None:
        _name("name", self.name)
        config.check(1 <= self.vcpus <= 1024, "vcpus: must be 1 to 1024")
        config.check(64 <= self.memory_mib <= 16 * 1024 * 1024, "memory_mib: must be 64 to 16777216")
        config.check(1 <= self.disk_gib <= 65536, "disk_gib: must be 1 to 65536")
        for name, count in self.devices.items():
            config.check_key("devices", partial(device_name, name))
            config.check(1 <= count <= 64, f"devices: of '{name}' 1 to 64 may be asked for, not {count}")

    @property
    def resources(self) -> Resources:
        return Resources(self.vcpus, self.memory_mib, self.disk_gib, devices(self.devices))


class PoolDeclaration(Declared, frozen=True):
    name: str
    endpoint: str
    repository: str  # owner/name
    provider: str
    image: str
    flavor: str
    labels: list[str]
    max_runners: int = 5
    enabled: bool = True
    priority: int = 0
    arch: Literal["amd64", "arm64"] = "amd64"
    os_type: Literal["linux", "windows"] = "linux"
    runner_prefix: str = "hostler"
    runner_group: str = ""
    bootstrap_timeout_minutes: int = 20
    extra_specs: dict[str, Any] = {}
    min_idle_runners: int = 0
    placement: Placement = Placement.SPREAD
    share_hosts: bool = True
    network_policy: NetworkPolicy = NetworkPolicy.INTERNET
    network_allow: list[str] = []  # CIDR[:PORT[/PROTOCOL]], or `dns`

    def __post_init__(self) -> None:
        _name("name", self.name)
        config.check(self.repository.count("/") == 1, f"repository: '{self.repository}' is not owner/name")
        config.check(1 <= len(self.labels) <= 100, "labels: 1 to 100 are needed (GitHub, generate-jitconfig)")
        config.check(
            all(label and label == label.strip() for label in self.labels),
            "labels: none may be empty, or begin or end with a space",
        )
        for label in self.labels:
            meant = _ARCH_OF_LABEL.get(label.casefold(), self.arch)
            config.check(meant == self.arch, f"labels: '{label}' promises {meant}, and the pool's arch is {self.arch}")
        for key in ("provider", "image", "flavor"):
            config.check(bool(getattr(self, key).strip()), f"{key}: must not be empty")
        config.check(1 <= self.max_runners <= 10_000, "max_runners: must be 1 to 10000")
        config.check(abs(self.priority) <= 1_000_000, "priority: must be -1000000 to 1000000")
        config.check(
            0 <= self.min_idle_runners <= self.max_runners, "min_idle_runners: must be 0 to the pool's max_runners"
        )
        config.check(1 <= self.bootstrap_timeout_minutes <= 1440, "bootstrap_timeout_minutes: must be 1 to 1440")
        config.check(
            bool(_PREFIX.fullmatch(self.runner_prefix)),
            f"runner_prefix: '{self.runner_prefix}' must be 1 to 31 of a-z, 0-9 and '-', a letter first",
        )
        config.check_key("network_allow", lambda: openings(tuple(self.network_allow)))

    @property
    def says_network(self) -> bool:
        return self.network_policy is not NetworkPolicy.INTERNET or bool(self.network_allow)


class Declaration(Declared, frozen=True):
    """A whole document: every table is optional, nothing that is left out is removed."""

    endpoint: list[EndpointDeclaration] = []
    credentials: list[CredentialsDeclaration] = []
    repository: list[RepositoryDeclaration] = []
    flavor: list[FlavorDeclaration] = []
    image: list[ImageDeclaration] = []
    pool: list[PoolDeclaration] = []
