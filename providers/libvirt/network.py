"""The libvirt network that the machines hang on: NAT, DNS by dnsmasq, no DHCP. Usable without a provider."""

from ipaddress import IPv4Address, IPv4Network

import libvirt

from providers.contract import HypervisorUnavailable
from providers.libvirt.settings import LibvirtSettings
from providers.libvirt.xml import element, parse, render


def gateway_address(settings: LibvirtSettings) -> IPv4Address:
    """Where guests reach their host: the bridge's address, known before the network is up."""
    return settings.gateway


def network_xml(settings: LibvirtSettings) -> str:
    """Guests have static addresses from their seed: DHCP would cost each boot seconds."""
    return render(
        element(
            "network",
            None,
            element("name", text=settings.network),
            element("forward", {"mode": "nat"}),
            element("bridge", {"name": settings.bridge, "stp": "off", "delay": "0"}),
            element("dns", {"enable": "yes"}),
            element("ip", {"address": str(settings.gateway), "prefix": str(settings.addresses.prefixlen)}),
        )
    )


def ensure_network(conn: libvirt.virConnect, settings: LibvirtSettings) -> IPv4Address:
    """Make sure that the network is up, and return the gateway's address. Blocks; may be called at any time by anybody.

    Raises:
        HypervisorUnavailable: it cannot be started, or one of that name has another bridge or address.
    """
    try:
        network = _look_up(conn, settings.network) or _create(conn, settings)
        if not network.isActive():
            network.create()
        check_network(network.XMLDesc(), settings)
    except libvirt.libvirtError as error:
        raise HypervisorUnavailable(
            f"network '{settings.network}' ({settings.subnet}) cannot be started: {error}",
            hint="see the daemon's log; another network or route may have this subnet: set [libvirt] subnet",
        ) from error
    return settings.gateway


def _look_up(conn: libvirt.virConnect, name: str) -> libvirt.virNetwork | None:
    try:
        return conn.networkLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise


def _create(conn: libvirt.virConnect, settings: LibvirtSettings) -> libvirt.virNetwork:
    """Transient: after a change of subnet and a reboot no old definition is in the way."""
    try:
        return conn.networkCreateXML(network_xml(settings))
    except libvirt.libvirtError:
        made_by_another = _look_up(conn, settings.network)
        if made_by_another is None:
            raise
        return made_by_another


def check_network(xml: str, settings: LibvirtSettings) -> None:
    """See that a network is the one that the packet filter holds.

    Raises:
        HypervisorUnavailable: it has another bridge or address.
    """
    network = parse(xml)
    bridge = network.find("bridge")
    name = bridge.get("name") if bridge is not None else None
    if name != settings.bridge:
        raise HypervisorUnavailable(
            f"network '{settings.network}' exists with {f'the bridge {name}' if name else 'no bridge'} instead of "
            f"{settings.bridge}, which alone is kept apart",
            hint=f"when no machine uses it: virsh net-destroy {settings.network}, and net-undefine where it is "
            "defined; or set [libvirt] network",
        )
    ip = network.find("ip")
    address = ip.get("address") if ip is not None else None
    mask = ip.get("prefix") or ip.get("netmask") if ip is not None else None
    subnet = IPv4Network(f"{address}/{mask}", strict=False) if address and mask else None
    if address != str(settings.gateway) or subnet != settings.addresses:
        raise HypervisorUnavailable(
            f"network '{settings.network}' exists with {address or 'no address'} instead of {settings.gateway} "
            f"in {settings.subnet}",
            hint=f"when no machine uses it: virsh net-destroy {settings.network}; or set [libvirt] network or subnet",
        )
