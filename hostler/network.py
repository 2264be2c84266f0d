"""What machines may reach: policies, and allow lists. What coordinator, agents and providers agree on."""

import re
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Network, IPv6Address
from typing import Final

import msgspec

RESOLVER: Final = "dns"
MOST_OPENINGS: Final = 100
_ENTRY: Final = re.compile(r"(?P<network>[0-9.]+(/[0-9]+)?)(:(?P<port>[0-9]{1,6})(/(?P<protocol>[a-z]+))?)?")
_PROTOCOLS: Final = ("tcp", "udp")
_FORM: Final = "CIDR, CIDR:PORT or CIDR:PORT/udp"


class NetworkPolicy(StrEnum):
    """Other machines are out of reach whatever the policy; the runner API is within reach whatever the policy."""

    STRICT = "strict"  # nothing but what the allow list names
    INTERNET = "internet"  # public addresses and DNS, no private ones
    OPEN = "open"  # all but the host itself and cloud metadata


class Opening(msgspec.Struct, frozen=True, order=True):
    """One entry of an allow list: addresses, all of their protocols or one port of one."""

    network: IPv4Network
    port: int | None = None
    protocol: str = "tcp"

    @property
    def exact(self) -> bool:
        """Whether it names one address; only such an entry opens the host itself, or a metadata service."""
        return self.network.prefixlen == self.network.max_prefixlen


class NetworkAccess(msgspec.Struct, frozen=True):
    """What the machines of a pool may reach. The default is for what says nothing: nothing is open."""

    policy: NetworkPolicy = NetworkPolicy.STRICT
    allow: tuple[str, ...] = ()  # as declared; read by `openings`

    def __post_init__(self) -> None:
        openings(self.allow)

    @property
    def resolver(self) -> bool:
        """Whether the host's resolver may be asked. A strict machine could carry anything out through names."""
        return self.policy is not NetworkPolicy.STRICT or RESOLVER in self.allow


def openings(allow: tuple[str, ...]) -> list[Opening]:
    """The allow list's addresses; `dns` is none.

    Raises:
        ValueError: an entry is no address or network, or there are too many.
    """
    if len(allow) > MOST_OPENINGS:
        raise ValueError(f"{len(allow)} entries are more than {MOST_OPENINGS}")
    return [opening(entry) for entry in allow if entry != RESOLVER]


def opening(entry: str) -> Opening:
    """
    Raises:
        ValueError: says what is wrong with it.
    """
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(f"'{entry[:100]}' {_why_not(entry)}")
    port = int(found["port"]) if found["port"] else None
    protocol = found["protocol"] or "tcp"
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"'{entry}' has a port that is not from 1 to 65535")
    if protocol not in _PROTOCOLS:
        raise ValueError(f"'{entry}' has the protocol '{protocol}'; there are {' and '.join(_PROTOCOLS)}")
    return Opening(_network(entry, found["network"]), port, protocol)


def _network(entry: str, text: str) -> IPv4Network:
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise ValueError(f"'{entry}' is not an IPv4 address or network: {_FORM}") from None
    if str(network.network_address) != text.partition("/")[0]:
        raise ValueError(f"'{entry}' has bits set behind its prefix; the network would be {network}")
    return network


def _why_not(entry: str) -> str:
    if _is_ipv6(entry):
        return "is IPv6, which machines have not: their networks carry IPv4 alone"
    if re.match(r"[^/:]*[A-Za-z]", entry):
        return "is a name; packet filters know addresses, and a name may stand for others tomorrow: give its networks"
    return f"is not {_FORM}"


def _is_ipv6(entry: str) -> bool:
    try:
        IPv6Address(entry.partition("/")[0].strip("[]"))
    except AddressValueError:
        return False
    return True
