"""Where the coordinator is, of which machines reach nothing but its runner API."""

import socket
from collections.abc import Callable
from ipaddress import IPv4Address

from hostler.config import host_and_port
from providers.contract import ProviderError

Resolve = Callable[[str], list[str]]


def _ask_resolver(host: str) -> list[str]:
    """Of both families: a name that has IPv6 alone is no failure."""
    return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})


class Coordinator:
    """The addresses that this host's agent calls. Blocks; safe to call from several threads."""

    def __init__(self, address: Callable[[], str], resolve: Resolve = _ask_resolver) -> None:
        """`address`: HOST:PORT, as things are when it is called."""
        self._address = address
        self._resolve = resolve
        self._known: dict[str, tuple[str, ...]] = {}

    def addresses(self) -> tuple[str, ...]:
        """Of IPv4, as the name stands for them now; while nobody can say, as it did.

        Raises:
            ProviderError: nobody has ever said.
        """
        host, _ = host_and_port(self._address())
        try:
            self._known[host] = tuple(one for one in self._resolve(host) if _is_reachable(one))
        except (OSError, UnicodeError) as error:  # the latter: no name could be so
            if host not in self._known:
                raise ProviderError(
                    f"the coordinator's name '{host}' cannot be resolved, so machines cannot be kept from it: {error}",
                    hint="see the host's DNS, or give [coordinator] address with an address",
                ) from error
        return self._known[host]


def _is_reachable(address: str) -> bool:
    """For a machine, if nothing stood in its way."""
    return ":" not in address and not IPv4Address(address).is_loopback


class Nowhere(Coordinator):
    """For a provider that serves no agent."""

    def __init__(self) -> None:
        super().__init__(lambda: "127.0.0.1:1", lambda host: [host])
