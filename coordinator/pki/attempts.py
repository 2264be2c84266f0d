"""Who tries tokens that open nothing may try only so many of them. Pure but for the clock it is given."""

from collections import deque
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Final, NamedTuple

from hostler.errors import HostlerError

_ALLOWED: Final = 10
_WINDOW_SECONDS: Final = 60.0
_PEERS: Final = 10_000


class TooManyAttempts(HostlerError):
    """The address has failed too often of late."""

    code = "too_many_attempts"


class Tried(NamedTuple):
    """What is tried, in the words of a refusal."""

    failures: str
    check: str


TOKENS: Final = Tried("tokens that open nothing came from this address", "token")


class Attempts:
    """Failures by the peer's address; whoever succeeds is not counted."""

    def __init__(self, monotonic: Callable[[], float], allowed: int = _ALLOWED, tried: Tried = TOKENS) -> None:
        self._monotonic = monotonic
        self._allowed = allowed
        self._tried = tried
        self._failed: dict[str, deque[float]] = {}

    def check(self, peer: str) -> None:
        """
        Raises:
            TooManyAttempts: see there.
        """
        failed = self._failed.get(source(peer))
        if failed is None:
            return
        since = self._monotonic() - _WINDOW_SECONDS
        while failed and failed[0] <= since:
            failed.popleft()
        if len(failed) >= self._allowed:
            raise TooManyAttempts(
                f"{self._allowed} {self._tried.failures} within a minute",
                hint=f"wait a minute, and check the {self._tried.check}",
            )

    def failed(self, peer: str) -> None:
        key = source(peer)
        times = self._failed.pop(key, None) or deque(maxlen=self._allowed)
        times.append(self._monotonic())
        self._failed[key] = times  # the latest last, so that the longest unheard of is forgotten first
        if len(self._failed) > _PEERS:
            del self._failed[next(iter(self._failed))]

    def forgive(self, peer: str) -> None:
        """Take one failure back: it was counted beforehand, and was none."""
        if times := self._failed.get(source(peer)):
            times.pop()


def source(peer: str) -> str:
    """What gRPC calls a peer (`ipv4:192.0.2.1:5000`, `ipv6:%5B2001:db8::1%5D:5000`) without its port.

    Of IPv6 the first 64 bits count: whoever has one address there has all of them.
    """
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    if family != "ipv6":
        return host or peer
    inner = host.removeprefix("%5B").removesuffix("%5D").removeprefix("[").removesuffix("]")
    return _network(inner)


def _network(host: str) -> str:
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped
    return str(mapped or IPv6Network((address, 64), strict=False))
