"""The gRPC listeners: a plain one on loopback, one for agents with mutual TLS, one for clients with TLS.

A method that a listener does not have cannot be called there, whatever the caller shows: an agent's certificate finds
nothing but its stream and its renewal.
"""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import grpc
import structlog

from coordinator.config import Grpc
from coordinator.fleet.entrance import Certified, Entrance, Loopback
from coordinator.fleet.service import FleetService
from coordinator.pki.access import AccessService
from coordinator.pki.attempts import Attempts
from coordinator.pki.authority import Authority, ServerCredentials
from coordinator.pki.enrolment import EnrolmentService, RenewalService
from coordinator.pki.guard import TokenGuard
from coordinator.pki.issuer import Issuer
from coordinator.pki.names import two_thirds
from coordinator.store.store import Store
from hostler.errors import HostlerError
from protos.hostler.v1.access_pb2_grpc import (
    add_AccessServicer_to_server,
    add_EnrolmentServicer_to_server,
    add_RenewalServicer_to_server,
)
from protos.hostler.v1.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from protos.hostler.v1.fleet_pb2_grpc import add_FleetServicer_to_server

log = structlog.get_logger()

_OPTIONS: Final = (
    # A dead peer is noticed within 20 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 8_000),
    ("grpc.http2.ping_timeout_ms", 8_000),  # what grpc really goes by, whatever keepalive_timeout_ms says
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.so_reuseport", 0),
)
_ENROLMENT: Final = "hostler.v1.Enrolment"


class AddressInUse(HostlerError):
    """Something else listens where the coordinator should."""

    code = "address_in_use"


class Services:
    """What is behind the doors."""

    def __init__(
        self,
        store: Store,
        settings: Grpc,
        ca: Authority,
        fleet: Callable[[Entrance], FleetService],
        admin: AdminServicer,
        access: AccessService,
        clock: Callable[[], datetime],
    ) -> None:
        self.store = store
        self.settings = settings
        self.ca = ca
        self.fleet = fleet
        self.admin = admin
        self.access = access
        self.clock = clock


@asynccontextmanager
async def opened(services: Services, before_closing: Callable[[], None]) -> AsyncIterator[None]:
    """Listen as configured.

    Args:
        before_closing: ends the streams of agents, so that none has to be waited for.

    Raises:
        AddressInUse: see there.
    """
    settings = services.settings
    async with AsyncExitStack() as stack:
        servers = [_plain(services)]
        if settings.agents_bind:
            servers += _secured(services)
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop, 1.0)
        stack.callback(before_closing)
        yield


def _plain(services: Services) -> grpc.aio.Server:
    server = grpc.aio.server(options=_OPTIONS)
    add_FleetServicer_to_server(services.fleet(Loopback()), server)
    add_AdminServicer_to_server(services.admin, server)
    add_AccessServicer_to_server(services.access, server)
    _listen(server.add_insecure_port, "bind", services.settings.bind)
    return server


def _secured(services: Services) -> Sequence[grpc.aio.Server]:
    settings, store = services.settings, services.store
    issuer = Issuer(store, services.ca, settings.certificate_life, services.clock)
    shown = _Shown(services.ca, settings.public_names, settings.certificate_life, services.clock)
    attempts = Attempts(time.monotonic)

    agents = grpc.aio.server(options=_OPTIONS)
    add_FleetServicer_to_server(services.fleet(Certified(issuer)), agents)
    add_RenewalServicer_to_server(RenewalService(issuer, settings.agents_address), agents)
    _listen(
        lambda bind: agents.add_secure_port(bind, shown.credentials(mutual=True)), "agents_bind", settings.agents_bind
    )

    guard = TokenGuard(store, attempts, [_ENROLMENT], time.monotonic)
    clients = grpc.aio.server(options=_OPTIONS, interceptors=[guard])
    enrolment = EnrolmentService(store, issuer, attempts, settings.agents_address, lambda: str(uuid.uuid4()))
    add_EnrolmentServicer_to_server(enrolment, clients)
    add_AdminServicer_to_server(services.admin, clients)
    add_AccessServicer_to_server(services.access, clients)
    _listen(
        lambda bind: clients.add_secure_port(bind, shown.credentials(mutual=False)),
        "clients_bind",
        settings.clients_bind,
    )
    return agents, clients


def _listen(add: Callable[[str], int], key: str, bind: str) -> None:
    try:
        add(bind)
    except RuntimeError:
        raise AddressInUse(
            f"grpc.{key}: cannot listen on {bind}", hint="is another coordinator running? choose another port"
        ) from None


class _Shown:
    """This coordinator's certificate, made anew at two thirds of its life.

    gRPC asks with every handshake, in a thread of its own.
    """

    def __init__(self, ca: Authority, names: Sequence[str], life: timedelta, clock: Callable[[], datetime]) -> None:
        self._ca = ca
        self._names = names
        self._life = life
        self._clock = clock

    def credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        made_at, configuration = self._make()

        def newer() -> Any:
            """None: what was shown last."""
            nonlocal made_at
            if self._clock() - made_at < two_thirds(self._life):
                return None
            made_at, fresh = self._make()
            log.info("the coordinator's own certificate was renewed")
            return fresh

        return grpc.dynamic_ssl_server_credentials(configuration, newer, mutual)

    def _make(self) -> tuple[datetime, Any]:
        now = self._clock()
        made: ServerCredentials = self._ca.for_server(self._names, now, self._life)
        return now, grpc.ssl_server_certificate_configuration([(made.key, made.chain)], self._ca.pem)
