"""From what a machine is given to what it may send: its port, its addresses, and every opening that is its."""

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Final
from urllib.parse import urlsplit

from hostler.network import NetworkAccess, Opening, opening, openings
from providers.addresses import mac_address
from providers.contract import Bootstrap, ProviderError
from providers.isolation.rules import Guest, Network, port_prefix

_DNS_PORT: Final = 53
_PORTS: Final = {"http": 80, "https": 443}
_HINT: Final = "see [http] runner_bind and runner_url of the coordinator"

Resolve = Callable[[str], list[str]]


def port_name(network: Network, address: IPv4Address) -> str:
    """The host's side of a machine's link: known before it is there. At most 14 characters (Linux, IFNAMSIZ: 15)."""
    return f"{port_prefix(network)}{int(address) - int(network.subnet.network_address):x}"


def guest_of(
    network: Network,
    address: IPv4Address,
    access: NetworkAccess,
    runner_api: tuple[str, ...],
    coordinator: Iterable[str] = (),
) -> Guest:
    """`runner_api`: what the function of that name returned when the machine was made.

    `coordinator`: the addresses that the agent called then.
    """
    called = [opening(entry) for entry in runner_api]
    found = called + openings(access.allow)
    if access.resolver:
        found += [Opening(IPv4Network(network.gateway), _DNS_PORT, protocol) for protocol in ("udp", "tcp")]
    return Guest(
        port=port_name(network, address),
        mac=mac_address(address),
        address=address,
        policy=access.policy,
        openings=tuple(found),
        coordinator=tuple(sorted({*map(IPv4Address, coordinator), *(one.network.network_address for one in called)})),
    )


def _ask_resolver(host: str) -> list[str]:
    return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)})


def runner_api(bootstrap: Bootstrap, access: NetworkAccess, resolve: Resolve = _ask_resolver) -> tuple[str, ...]:
    """Where the machine must call, as entries of an allow list. Blocks where that is a name.

    Raises:
        ProviderError: a machine on this host could never call there.
    """
    urls = {bootstrap.metadata_url, bootstrap.callback_url}
    return tuple(sorted({entry for url in urls for entry in _entries(url, access, resolve)}))


def _entries(url: str, access: NetworkAccess, resolve: Resolve) -> list[str]:
    host, port = _host_and_port(url)
    if not host or not port:
        raise ProviderError(f"'{url}' is no address of a runner API", hint=_HINT)
    addresses = [host] if _is_address(host) else _named(host, access, resolve)
    if any(IPv4Address(address).is_loopback for address in addresses):
        raise ProviderError(f"the runner API at {host}:{port} is on loopback, where no machine reaches it", hint=_HINT)
    return [f"{address}:{port}/tcp" for address in addresses]


def _host_and_port(url: str) -> tuple[str, int]:
    """Empty and 0 where there are none, or none that could be."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:  # a port beyond 65535, a bracket that stays open
        return "", 0


def _is_address(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        if ":" in host:
            raise ProviderError(f"the runner API at {host} has IPv6, which machines have not", hint=_HINT) from None
        return False
    return True


def _named(host: str, access: NetworkAccess, resolve: Resolve) -> list[str]:
    if not access.resolver:
        raise ProviderError(
            f"the runner API is called '{host}', and a strict machine may not ask for names",
            hint="give runner_url with an address, or the pool's network_allow a 'dns'",
        )
    try:
        return resolve(host)
    except (OSError, UnicodeError) as error:  # the latter: no name could be so
        raise ProviderError(f"the runner API's name '{host}' cannot be resolved: {error}", hint=_HINT) from error
