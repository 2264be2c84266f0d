"""How a host gets its certificates: the first for the token of an invitation, each later one for the one before."""

import asyncio
from collections.abc import Callable

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.pki import authority
from coordinator.pki.attempts import Attempts, TooManyAttempts
from coordinator.pki.authority import RequestInvalid
from coordinator.pki.issuer import Issued, Issuer, NotAdmitted
from coordinator.pki.names import HostIdentity, NotAHost
from coordinator.store.enrolments import InvitationRefused
from coordinator.store.store import Store
from hostler import config, tickets
from hostler.tickets import Kind, TicketMistyped
from protos.hostler.v1 import access_pb2 as pb
from protos.hostler.v1.access_pb2_grpc import EnrolmentServicer, RenewalServicer

log = structlog.get_logger()
Context = grpc.aio.ServicerContext[object, object]


class EnrolmentService(EnrolmentServicer):
    """On the listener for clients. Whoever calls has nothing yet but a token."""

    def __init__(
        self, store: Store, issuer: Issuer, attempts: Attempts, agents_address: str, new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._attempts = attempts
        self._agents_address = agents_address
        self._new_id = new_id

    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.Certificate:
        peer = context.peer()
        try:
            self._attempts.check(peer)
        except TooManyAttempts as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        try:
            issued = await self._enrol(request)
        except (TicketMistyped, InvitationRefused) as error:
            self._attempts.failed(peer)
            log.warning("an enrolment was refused", peer=peer, host=request.host[:80], code=error.code)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except (RequestInvalid, ValueError) as error:
            self._attempts.failed(peer)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        log.info("host enrolled", host=issued.host, peer=peer, agent_version=request.agent_version[:80])
        return _certificate(issued, self._issuer, self._agents_address)

    async def _enrol(self, request: pb.EnrolRequest) -> Issued:
        config.check_key("host", lambda: config.host_name(request.host))
        token = tickets.check(Kind.INVITATION, request.token)
        key = await asyncio.to_thread(authority.key_in, request.csr)
        identity = HostIdentity(request.host, self._new_id())
        await self._store.enrolments.enrol(identity.host, tickets.digest(token), identity.enrolment)
        return self._issuer.issue(identity, key)


class RenewalService(RenewalServicer):
    """On the listener for agents."""

    def __init__(self, issuer: Issuer, agents_address: str) -> None:
        self._issuer = issuer
        self._agents_address = agents_address

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.Certificate:
        try:
            peer = self._issuer.peer(context.auth_context())
            await self._issuer.check(peer.identity)
            key = await asyncio.to_thread(authority.key_in, request.csr)
            _check_new(key, peer.key)
        except (NotAHost, NotAdmitted) as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except RequestInvalid as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        log.info("certificate renewed", host=peer.identity.host)
        return _certificate(self._issuer.issue(peer.identity, key), self._issuer, self._agents_address)


def _check_new(key: ec.EllipticCurvePublicKey, old: ec.EllipticCurvePublicKey) -> None:
    if key == old:
        raise RequestInvalid("a renewal needs a new key")


def _certificate(issued: Issued, issuer: Issuer, agents_address: str) -> pb.Certificate:
    return pb.Certificate(
        host=issued.host,
        certificate=issued.certificate,
        ca=issuer.ca.pem,
        life_seconds=int(issued.life.total_seconds()),
        agents_address=agents_address,
    )
