"""What LXD is asked for when an instance is made. Pure: values in, the request's body out.

Keys and their meaning: LXD's documentation, "Instance options" and "Devices".
"""

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import msgspec

from providers.addresses import mac_address
from providers.contract import ProviderError, Resources
from providers.lxd.tags import Tags, written

VIRTUAL_MACHINES: Final = "lxd"
CONTAINERS: Final = "lxd-container"
TYPES: Final = {VIRTUAL_MACHINES: "virtual-machine", CONTAINERS: "container"}
"""LXD's type of instance by the driver that a pool names; containers are asked for outright: they share the kernel."""

# The templates in LXD's images write a NoCloud seed from the one or the other name, according to their age.
_CLOUD_INIT: Final = ("cloud-init", "user")


class Plan(msgspec.Struct, frozen=True):
    """Everything that the request depends on."""

    tags: Tags
    name: str
    driver: str
    fingerprint: str
    resources: Resources
    storage_pool: str
    network: str
    port: str  # the host's side of its link
    address: IPv4Address
    profiles: tuple[str, ...] = ()
    seed: Path | None = None  # an ISO image, for virtual machines
    user_data: str = ""  # for containers: only until the instance has been started
    network_config: str = ""

    @property
    def is_container(self) -> bool:
        return self.driver == CONTAINERS


def instance_type(driver: str) -> str:
    """
    Raises:
        ProviderError: not a driver of this provider.
    """
    if driver not in TYPES:
        raise ProviderError(f"'{driver}' is not a driver of LXD", hint=f"pools name {' or '.join(TYPES)}")
    return TYPES[driver]


def create_body(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "type": instance_type(plan.driver),
        "source": {"type": "image", "fingerprint": plan.fingerprint},
        # One that vanished when it stops would take its console and the news of its end with it.
        "ephemeral": False,
        "profiles": list(plan.profiles),
        "config": _config(plan),
        "devices": _devices(plan),
    }


def without_cloud_init() -> dict[str, str]:
    """What takes the user data, and the token in it, out of LXD's database: an empty key is no key."""
    return {f"{prefix}.{key}": "" for prefix in _CLOUD_INIT for key in ("user-data", "network-config")}


def _config(plan: Plan) -> dict[str, str]:
    config = written(plan.tags) | {
        "limits.cpu": str(plan.resources.vcpus),
        "limits.memory": f"{plan.resources.memory_mib}MiB",
        # A machine is used once: neither LXD's restart nor the host's starts it again.
        "boot.autostart": "false",
        # No job needs LXD's API, and none shall read the keys above.
        "security.devlxd": "false",
    }
    if not plan.is_container:
        return config | {"security.secureboot": "false", "migration.stateful": "false"}
    config |= {"security.nesting": "true", "security.privileged": "false"}
    if plan.user_data:
        for prefix in _CLOUD_INIT:
            config |= {f"{prefix}.user-data": plan.user_data, f"{prefix}.network-config": plan.network_config}
    return config


def _devices(plan: Plan) -> dict[str, dict[str, str]]:
    devices = {
        "root": {"type": "disk", "path": "/", "pool": plan.storage_pool, "size": f"{plan.resources.disk_gib}GiB"},
        "eth0": {
            "type": "nic",
            "name": "eth0",
            "network": plan.network,
            "host_name": plan.port,
            "hwaddr": mac_address(plan.address),
            "ipv4.address": str(plan.address),
            "security.mac_filtering": "true",
            "security.ipv4_filtering": "true",
            "security.ipv6_filtering": "true",
            "security.port_isolation": "true",
        },
    }
    if plan.seed is not None:
        devices["seed"] = {"type": "disk", "source": str(plan.seed), "readonly": "true"}
    return devices
