"""The access service: invitations and revocation of hosts, tokens of the admin client, and the audit log."""

import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import grpc
import structlog

from coordinator.accounts.chain import Entry
from coordinator.accounts.roles import Role
from coordinator.fleet.wire import timestamp
from coordinator.pki.authority import Authority
from coordinator.store.admin_tokens import NoSuchToken, TokenNameTaken
from coordinator.store.enrolments import NotEnrolled
from coordinator.store.store import Store
from hostler import config, tickets
from hostler.tickets import Kind
from protos.hostler.v1 import access_pb2 as pb
from protos.hostler.v1.access_pb2_grpc import AccessServicer

log = structlog.get_logger()
Context = grpc.aio.ServicerContext[object, object]

_INVITATION: Final = timedelta(hours=1)
_LONGEST_INVITATION: Final = timedelta(days=7)
_TOKEN: Final = timedelta(days=90)
_LONGEST_TOKEN: Final = timedelta(days=3650)
_ROLES: Final = frozenset({"", *Role})
_ENTRIES: Final = 100
_MOST_ENTRIES: Final = 1000


class AccessService(AccessServicer):
    def __init__(
        self, store: Store, ca: Authority, clients_address: str, cut_revoked: Callable[[], Awaitable[None]]
    ) -> None:
        """
        Args:
            clients_address: empty when there is no listener for clients, so that hosts cannot enrol.
            cut_revoked: ends the streams here of hosts that have been revoked.
        """
        self._store = store
        self._ca = ca
        self._clients_address = clients_address
        self._cut_revoked = cut_revoked

    async def InviteHost(self, request: pb.InviteHostRequest, context: Context) -> pb.Invitation:
        life = timedelta(seconds=request.valid_seconds) or _INVITATION
        if not self._clients_address:
            reason = "no host can enrol here: set [grpc] agents_bind, clients_bind and public_names of the coordinator"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        try:
            config.check_key("host", lambda: config.host_name(request.host))
            config.check(life <= _LONGEST_INVITATION, "an invitation is valid for 7 days at most")
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        token = tickets.ticket(Kind.INVITATION, secrets.token_bytes(tickets.SECRET_BYTES))
        expires_at = self._store.now() + life
        replaces = await self._store.enrolments.invite(request.host, tickets.digest(token), expires_at)
        log.info("host invited", host=request.host, expires_at=expires_at.isoformat())
        return pb.Invitation(
            token=token,
            clients_address=self._clients_address,
            ca_pin=self._ca.pin,
            expires_at=timestamp(expires_at),
            replaces=replaces,
        )

    async def RevokeHost(self, request: pb.RevokeHostRequest, context: Context) -> pb.RevokeHostResponse:
        try:
            withdrawn = await self._store.enrolments.revoke(request.host)
        except NotEnrolled as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        await self._cut_revoked()
        log.warning("host revoked", host=request.host)
        return pb.RevokeHostResponse(invitations=withdrawn)

    async def MakeToken(self, request: pb.MakeTokenRequest, context: Context) -> pb.MadeToken:
        life = timedelta(days=request.valid_days) or _TOKEN
        token = tickets.ticket(Kind.ADMIN, secrets.token_bytes(tickets.SECRET_BYTES))
        expires_at = self._store.now() + life
        try:
            config.check_key("name", lambda: config.host_name(request.name))
            config.check(life <= _LONGEST_TOKEN, "a token is valid for 3650 days at most")
            config.check(request.role in _ROLES, f"role: '{request.role}' is none of viewer, operator and admin")
            role = Role(request.role or Role.ADMIN)
            await self._store.admin_tokens.keep(request.name, tickets.digest(token), expires_at, role)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TokenNameTaken as error:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
        log.info("admin token made", token=request.name, expires_at=expires_at.isoformat())
        return pb.MadeToken(
            token=token,
            clients_address=self._clients_address,
            ca_pin=self._ca.pin,
            expires_at=timestamp(expires_at),
        )

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        tokens = await self._store.admin_tokens.all()
        return pb.ListTokensResponse(
            tokens=[
                pb.Token(
                    name=one.name,
                    made_at=timestamp(one.made_at),
                    expires_at=timestamp(one.expires_at),
                    role=one.role.value,
                )
                for one in tokens
            ]
        )

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        try:
            await self._store.admin_tokens.revoke(request.name)
        except NoSuchToken as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        log.warning("admin token revoked", token=request.name)
        return pb.RevokeTokenResponse()

    async def ListAudit(self, request: pb.ListAuditRequest, context: Context) -> pb.ListAuditResponse:
        most = min(request.limit or _ENTRIES, _MOST_ENTRIES)
        entries = await self._store.audit.page(request.before or None, most)
        return pb.ListAuditResponse(entries=[_entry(entry) for entry in entries])

    async def VerifyAudit(self, request: pb.VerifyAuditRequest, context: Context) -> pb.VerifyAuditResponse:
        verdict = await self._store.audit.verify()
        return pb.VerifyAuditResponse(entries=verdict.entries, fault=verdict.fault)


def _entry(entry: Entry) -> pb.AuditEntry:
    return pb.AuditEntry(
        number=entry.number,
        at=timestamp(entry.at),
        actor=entry.actor,
        via=entry.via,
        action=entry.action,
        target=entry.target,
        before=entry.before,
        after=entry.after,
    )
