"""What instances need of LXD before any can be made: project, storage pool, network, profiles. Blocks."""

from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

from pylxd import Client
from pylxd.exceptions import LXDAPIException, NotFound

from providers.contract import HypervisorUnavailable
from providers.lxd.settings import LxdSettings

# Images and networks stay the host's, so that what the operator imports is there for Hostler.
_PROJECT: Final = {"features.images": "false", "features.profiles": "true", "features.storage.volumes": "true"}

# There only while br_netfilter is loaded. LXD filters IPv6 by it, and does not load it: it is the host's to decide.
_BRIDGE_FILTER: Final = Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables")


def ensure_project(client: Client, settings: LxdSettings) -> None:
    """Errors are pylxd's own."""
    try:
        client.api.projects[settings.project].get()
    except NotFound:
        body = {"name": settings.project, "description": "machines of Hostler's agent", "config": _PROJECT}
        client.api.projects.post(json=body)


def ensure(client: Client, settings: LxdSettings) -> None:
    """Make the network where it is missing; pool and profiles are the operator's. May be repeated.

    Raises:
        HypervisorUnavailable: something is missing, or is not what the settings say.
    """
    check_bridge_filter()
    try:
        _check_pool(client, settings)
        _ensure_network(client, settings)
        _check_profiles(client, settings)
    except LXDAPIException as error:
        raise HypervisorUnavailable(f"LXD cannot be prepared: {error}", hint="see `lxc monitor` and its log") from error


def check_bridge_filter(switch: Path = _BRIDGE_FILTER) -> None:
    """See that LXD can filter what leaves an instance, without which none of ours starts.

    Raises:
        HypervisorUnavailable: the kernel module is not loaded, or is switched off.
    """
    if not switch.exists():
        raise HypervisorUnavailable(
            "LXD cannot keep addresses apart: the kernel module br_netfilter is not loaded",
            hint="`modprobe br_netfilter` now, and `echo br_netfilter >/etc/modules-load.d/hostler.conf` for later",
        )
    if switch.read_text().strip() != "1":
        raise HypervisorUnavailable(
            "LXD cannot keep addresses apart: bridges do not ask ip6tables",
            hint=f"`sysctl net.bridge.{switch.name}=1` now, and the same in /etc/sysctl.d/ for later",
        )


def network_config(settings: LxdSettings) -> dict[str, str]:
    """Guests have static addresses from their seed: DHCP would cost each boot seconds."""
    return {
        "ipv4.address": f"{settings.gateway}/{settings.addresses.prefixlen}",
        "ipv4.nat": "true",
        "ipv4.dhcp": "false",
        "ipv6.address": "none",
    }


def _check_pool(client: Client, settings: LxdSettings) -> None:
    try:
        client.api.storage_pools[settings.storage_pool].get()
    except NotFound:
        raise HypervisorUnavailable(
            f"LXD has no storage pool '{settings.storage_pool}'",
            hint="make one with `lxd init` or `lxc storage create`, or set [lxd] storage_pool",
        ) from None


def _ensure_network(client: Client, settings: LxdSettings) -> None:
    endpoint = client.api.networks[settings.network]
    try:
        found = endpoint.get().json()["metadata"]
    except NotFound:
        body = {"name": settings.network, "type": "bridge", "config": network_config(settings)}
        client.api.networks.post(json=body)
        return
    has = found["config"].get("ipv4.address", "")
    if not found["managed"] or has in {"", "none", "auto"} or not _is_ours(has, settings):
        raise HypervisorUnavailable(
            f"LXD's network '{settings.network}' exists with {has or 'no address'} instead of {settings.gateway} "
            f"in {settings.subnet}",
            hint=f"when no instance uses it: lxc network delete {settings.network}; or set [lxd] network or subnet",
        )


def _is_ours(address: str, settings: LxdSettings) -> bool:
    interface = IPv4Interface(address)
    return interface.ip == settings.gateway and interface.network == settings.addresses


def _check_profiles(client: Client, settings: LxdSettings) -> None:
    for profile in settings.profiles:
        try:
            client.api.profiles[profile].get()
        except NotFound:
            raise HypervisorUnavailable(
                f"LXD's project '{settings.project}' has no profile '{profile}'",
                hint=f"lxc profile create --project {settings.project} {profile}; or change [lxd] profiles",
            ) from None
