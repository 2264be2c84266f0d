"""The addresses that a provider gives its guests: pure arithmetic on the private network that is theirs."""

from ipaddress import IPv4Address, IPv4Network
from typing import Final

from hostler.config import check

FIRST_GUEST: Final = 2  # 0 is the network itself, 1 the bridge


def private_subnet(value: str) -> IPv4Network:
    """For the settings of providers.

    Raises:
        ValueError: says what is allowed.
    """
    try:
        subnet = IPv4Network(value)
    except ValueError:
        raise ValueError(
            f"'{value}' is not a private IPv4 network with a prefix from /16 to /29, for example 10.213.0.0/22"
        ) from None
    check(subnet.is_private, f"'{value}' is not a private network")
    check(16 <= subnet.prefixlen <= 29, f"'{value}' must have a prefix from /16 to /29")
    return subnet


def lowest_free(subnet: IPv4Network, taken: set[IPv4Address]) -> IPv4Address | None:
    """The first address that a guest may have; None when all are taken."""
    usable = range(FIRST_GUEST, subnet.num_addresses - 1)
    return next((subnet[offset] for offset in usable if subnet[offset] not in taken), None)


def mac_address(address: IPv4Address) -> str:
    """A MAC that goes with the address for good, so that a reused address leaves no stale neighbour entry."""
    low = int(address) & 0xFFFFFF
    # 52:54:00 is the prefix that QEMU and libvirt use for guests.
    return f"52:54:00:{low >> 16:02x}:{low >> 8 & 0xFF:02x}:{low & 0xFF:02x}"
