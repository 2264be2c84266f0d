"""A look at the interface that rules are about to be made for: a wrong name would cut the host itself off."""

import fcntl
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from providers.isolation.nft import IsolationFailed
from providers.isolation.rules import Network

_INTERFACES: Final = Path("/sys/class/net")
_SIOCGIFADDR: Final = 0x8915  # netdevice(7)
_NAME_BYTES: Final = 15


def check(network: Network, interfaces: Path = _INTERFACES) -> None:
    """See that the interface, where it exists, is a bridge with our address, or with none yet. Blocks.

    Raises:
        IsolationFailed: it is something else, whose traffic is not ours to judge.
    """
    interface = interfaces / network.bridge
    if not interface.exists():
        return
    if not (interface / "bridge").is_dir():
        raise IsolationFailed(
            f"the interface '{network.bridge}' is no bridge, so it cannot be a network of machines",
            hint="choose another name for the network",
        )
    address = _address(network.bridge)
    if address not in (None, network.gateway):
        raise IsolationFailed(
            f"the bridge '{network.bridge}' has the address {address}, not {network.gateway}: it is somebody else's",
            hint="choose another name for the network, or the subnet that the bridge has",
        )


def _address(interface: str) -> IPv4Address | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            request = struct.pack("256s", interface.encode()[:_NAME_BYTES])
            return IPv4Address(fcntl.ioctl(any_socket, _SIOCGIFADDR, request)[20:24])
        except OSError:
            return None
