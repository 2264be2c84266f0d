"""Channels to the coordinator: by mutual TLS where this host is enrolled, else plain and on loopback alone."""

from datetime import datetime
from pathlib import Path
from typing import Final

import grpc.aio
import msgspec

from agent import identity
from agent.config import CoordinatorSection
from agent.identity import Identity
from hostler.config import host_and_port, is_loopback
from hostler.errors import ConfigError, HostlerError

BESIDE: Final = "127.0.0.1:9998"
"""Where a coordinator on this machine listens by default."""

# A silent peer is noticed within the sum of the first two. gRPC (seen with 1.85) never arms keepalive_timeout_ms; what
# ends the transport is the ping's own time-out, a minute by default. The coordinator must allow pings this often
# (grpc.http2.min_ping_interval_without_data_ms), or it ends quiet connections with "too_many_pings".
CHANNEL_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 8_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel starts without the back-off of the one before
    ("grpc.enable_retries", 0),
)


class CertificateExpired(HostlerError):
    """This host was away for longer than its certificate lasts."""

    code = "certificate_expired"


class Way(msgspec.Struct, frozen=True):
    """How the coordinator is reached."""

    address: str
    identity: Identity | None = None  # None: plain, on loopback

    def channel(self) -> grpc.aio.Channel:
        mine = self.identity
        if mine is None:
            return grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        proof = grpc.ssl_channel_credentials(mine.ca.encode(), mine.key.encode(), mine.certificate.encode())
        return grpc.aio.secure_channel(self.address, proof, options=CHANNEL_OPTIONS)


def address(data_dir: Path, section: CoordinatorSection) -> str:
    """Where the coordinator is, as HOST:PORT, whether or not it can be reached like this.

    Raises:
        IdentityUnusable: see there.
    """
    if section.address:
        return section.address
    mine = identity.load(data_dir)
    return BESIDE if mine is None else mine.agents_address


def find(data_dir: Path, host: str, section: CoordinatorSection, now: datetime) -> Way:
    """As things are now: a host may be enrolled while its agent runs.

    Raises:
        ConfigError: the address cannot be reached like this, or the host is called otherwise than it was enrolled.
        CertificateExpired: see there.
        IdentityUnusable: see there.
    """
    mine = identity.load(data_dir)
    if mine is None:
        return Way(_plain(section.address or BESIDE))
    if mine.host != host:
        raise ConfigError(
            f"key 'host.name': this host is called '{host}', and was enrolled as '{mine.host}'",
            hint="set the name it was enrolled with, or enrol it anew",
        )
    if mine.expired(now):
        raise CertificateExpired(
            f"the certificate of this host expired at {mine.expires_at:%Y-%m-%d %H:%M:%S} UTC",
            hint=f"enrol it anew: the line comes from hostler host invite {host}",
        )
    return Way(section.address or mine.agents_address, mine)


def _plain(address: str) -> str:
    host, _ = host_and_port(address)
    if not is_loopback(host):
        raise ConfigError(
            f"key 'coordinator.address': '{host}' is another machine, and this host is not enrolled",
            hint="run the line that hostler host invite NAME prints on the coordinator's machine",
        )
    return address
