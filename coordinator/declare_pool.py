"""Pools and scale sets as they are declared: whose runners they make, of what, where and how many."""

import re
from typing import Any, Final, Literal

import msgspec

from coordinator.declare_base import check_name
from coordinator.declare_entity import OfEntity
from coordinator.domain.fleet import Placement
from hostler import config
from hostler.network import NetworkPolicy, openings

_PREFIX: Final = re.compile(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?")
# A job that asks for the one must never get a machine of the other.
_ARCH_OF_LABEL: Final = {"x64": "amd64", "x86_64": "amd64", "amd64": "amd64", "arm64": "arm64", "aarch64": "arm64"}


class Making(OfEntity, frozen=True, kw_only=True):
    """What pools and scale sets say of the machines that they make."""

    name: str
    provider: str
    image: str
    flavor: str
    labels: list[str]
    max_runners: int = 5
    enabled: bool = True
    arch: Literal["amd64", "arm64"] = "amd64"
    os_type: Literal["linux", "windows"] = "linux"
    runner_prefix: str = "hostler"
    runner_group: str = ""
    bootstrap_timeout_minutes: int = 20
    extra_specs: dict[str, Any] = {}
    extra_specs_json: str = ""  # the same as JSON, for what TOML cannot say
    min_idle_runners: int = 0
    template: str = ""  # the name of an install template that people made; empty: what comes with Hostler
    proxy: str = ""  # the name of the proxy by which machines reach the forge, and us; empty: directly

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
        config.check(
            0 <= self.min_idle_runners <= self.max_runners, "min_idle_runners: must be 0 to the pool's max_runners"
        )
        config.check(1 <= self.bootstrap_timeout_minutes <= 1440, "bootstrap_timeout_minutes: must be 1 to 1440")
        config.check(
            bool(_PREFIX.fullmatch(self.runner_prefix)),
            f"runner_prefix: '{self.runner_prefix}' must be 1 to 31 of a-z, 0-9 and '-', a letter first",
        )
        if self.extra_specs_json:
            config.check(not self.extra_specs, "extra_specs_json: extra_specs says it already: keep one of them")
            msgspec.structs.force_setattr(self, "extra_specs", _object(self.extra_specs_json))
            msgspec.structs.force_setattr(self, "extra_specs_json", "")


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"extra_specs_json: not a JSON object: {error}") from None


class PoolDeclaration(Making, frozen=True, kw_only=True):
    priority: int = 0
    placement: Placement = Placement.SPREAD
    share_hosts: bool = True
    network_policy: NetworkPolicy = NetworkPolicy.INTERNET
    network_allow: list[str] = []  # CIDR[:PORT[/PROTOCOL]], or `dns`

    def __post_init__(self) -> None:
        super().__post_init__()
        config.check(abs(self.priority) <= 1_000_000, "priority: must be -1000000 to 1000000")
        config.check_key("network_allow", lambda: openings(tuple(self.network_allow)))

    @property
    def says_network(self) -> bool:
        return self.network_policy is not NetworkPolicy.INTERNET or bool(self.network_allow)


class ScaleSetDeclaration(Making, frozen=True, kw_only=True):
    """A scale set of GitHub's. It is kept; no runner is made for it yet."""

    disable_update: bool = False  # of the runner's program by itself
