"""What `hostler apply` may declare, as it arrives: parsed and checked here, stored by the catalog."""

import re
from functools import partial
from typing import Any, Final, Literal

import msgspec

from coordinator.declare_base import Declared, changed_declaration, check_name, declaration
from coordinator.declare_entity import (
    EnterpriseDeclaration,
    EntityDeclaration,
    ForgeInstanceDeclaration,
    OfEntity,
    OrganizationDeclaration,
    RepositoryDeclaration,
)
from coordinator.declare_forge import CredentialsDeclaration, EndpointDeclaration
from coordinator.declare_image import ImageDeclaration
from coordinator.domain.fleet import Placement
from coordinator.domain.resources import Resources, devices
from hostler import config
from hostler.config import device_name
from hostler.network import NetworkPolicy, openings

__all__ = [
    "CredentialsDeclaration",
    "Declaration",
    "Declared",
    "EndpointDeclaration",
    "EnterpriseDeclaration",
    "EntityDeclaration",
    "FlavorDeclaration",
    "ForgeInstanceDeclaration",
    "ImageDeclaration",
    "OrganizationDeclaration",
    "PoolDeclaration",
    "RepositoryDeclaration",
    "changed_declaration",
    "declaration",
]

_PREFIX: Final = re.compile(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?")
# A job that asks for the one must never get a machine of the other.
_ARCH_OF_LABEL: Final = {"x64": "amd64", "x86_64": "amd64", "amd64": "amd64", "arm64": "arm64", "aarch64": "arm64"}


class FlavorDeclaration(Declared, frozen=True):
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    devices: dict[str, int] = {}  # of the host, by the name that agents give them; each machine has its own

    def __post_init__(self) -> None:
        check_name("name", self.name)
        config.check(1 <= self.vcpus <= 1024, "vcpus: must be 1 to 1024")
        config.check(64 <= self.memory_mib <= 16 * 1024 * 1024, "memory_mib: must be 64 to 16777216")
        config.check(1 <= self.disk_gib <= 65536, "disk_gib: must be 1 to 65536")
        for name, count in self.devices.items():
            config.check_key("devices", partial(device_name, name))
            config.check(1 <= count <= 64, f"devices: of '{name}' 1 to 64 may be asked for, not {count}")

    @property
    def resources(self) -> Resources:
        return Resources(self.vcpus, self.memory_mib, self.disk_gib, devices(self.devices))


class PoolDeclaration(OfEntity, frozen=True, kw_only=True):
    name: str
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
    extra_specs_json: str = ""  # the same as JSON, for what TOML cannot say
    min_idle_runners: int = 0
    placement: Placement = Placement.SPREAD
    share_hosts: bool = True
    network_policy: NetworkPolicy = NetworkPolicy.INTERNET
    network_allow: list[str] = []  # CIDR[:PORT[/PROTOCOL]], or `dns`

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("name", self.name)
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
        if self.extra_specs_json:
            config.check(not self.extra_specs, "extra_specs_json: extra_specs says it already: keep one of them")
            msgspec.structs.force_setattr(self, "extra_specs", _object(self.extra_specs_json))
            msgspec.structs.force_setattr(self, "extra_specs_json", "")

    @property
    def says_network(self) -> bool:
        return self.network_policy is not NetworkPolicy.INTERNET or bool(self.network_allow)


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"extra_specs_json: not a JSON object: {error}") from None


class Declaration(Declared, frozen=True):
    """A whole document: every table is optional, nothing that is left out is removed."""

    endpoint: list[EndpointDeclaration] = []
    credentials: list[CredentialsDeclaration] = []
    repository: list[RepositoryDeclaration] = []
    organization: list[OrganizationDeclaration] = []
    enterprise: list[EnterpriseDeclaration] = []
    forge_instance: list[ForgeInstanceDeclaration] = []
    flavor: list[FlavorDeclaration] = []
    image: list[ImageDeclaration] = []
    pool: list[PoolDeclaration] = []
