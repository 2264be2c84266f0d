"""What guards the listener for clients: everything but enrolment needs a token of the admin client."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import grpc
import structlog

from coordinator.accounts.roles import Actor, Role, acting
from coordinator.pki.attempts import Attempts, TooManyAttempts
from coordinator.store.store import Store
from hostler import tickets
from hostler.errors import HostlerError
from hostler.tickets import Kind

log = structlog.get_logger()

_HEADER: Final = "authorization"
_BEARER: Final = "Bearer "
_STILL_GOOD_SECONDS: Final = 5.0
"""How long a stream trusts its token: one that is revoked or expires is told nothing after that."""

Details = grpc.HandlerCallDetails


_LOOKS: Final = ("Get", "FleetStatus", "List", "Watch", "Explain")
_FOR_OPERATORS: Final = frozenset(
    {
        "GetConsole",  # jobs print what they should not
        "CheckProvider",
        "PrefetchImages",
        "CordonHost",
        "DrainHost",
        "UncordonHost",
    }
)
_SECRETIVE: Final = frozenset({"ListTokens", "ListAudit"})


def needed_role(method: str) -> Role:
    """Which role a call of the admin and access services needs; one that nobody has thought of, an administrator."""
    if method in _FOR_OPERATORS:
        return Role.OPERATOR
    return Role.VIEWER if method.startswith(_LOOKS) and method not in _SECRETIVE else Role.ADMIN


class TokenRefused(HostlerError):
    """No token, or one that opens nothing."""

    code = "token_refused"


class TokenGuard(grpc.aio.ServerInterceptor):
    """Wraps each guarded call, so that the token is looked at with the call's own peer at hand."""

    def __init__(
        self, store: Store, attempts: Attempts, unguarded: Collection[str], monotonic: Callable[[], float]
    ) -> None:
        """
        Args:
            unguarded: full names of services that may be called without a token.
        """
        self._store = store
        self._monotonic = monotonic
        self._attempts = attempts
        self._unguarded = frozenset(unguarded)

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Any]], handler_call_details: Details
    ) -> Any:
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.strip("/").partition("/")
        needed = needed_role(method)
        if handler is None or service in self._unguarded:
            return handler
        metadata = {str(key): value for key, value in handler_call_details.invocation_metadata or ()}
        given = str(metadata.get(_HEADER, ""))
        if handler.unary_stream:
            stream = handler.unary_stream

            async def guarded_stream(request: Any, context: Any) -> Any:
                await self._admit(given, needed, context)
                looked = self._monotonic()
                async for answer in stream(request, context):
                    if self._monotonic() - looked >= _STILL_GOOD_SECONDS:
                        await self._admit(given, needed, context)
                        looked = self._monotonic()
                    yield answer

            return grpc.unary_stream_rpc_method_handler(
                guarded_stream, handler.request_deserializer, handler.response_serializer
            )
        if not handler.unary_unary:
            return grpc.stream_stream_rpc_method_handler(self._refuse)
        call = handler.unary_unary

        async def guarded(request: Any, context: Any) -> Any:
            acting.set(await self._admit(given, needed, context))
            return await call(request, context)

        return grpc.unary_unary_rpc_method_handler(guarded, handler.request_deserializer, handler.response_serializer)

    async def _refuse(self, _request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not on this listener")

    async def _admit(self, given: str, needed: Role, context: Any) -> Actor:
        peer = context.peer()
        try:
            self._attempts.check(peer)
            actor = await self._check(given)
        except TooManyAttempts as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except (tickets.TicketMistyped, TokenRefused) as error:
            self._attempts.failed(peer)
            log.warning("an admin call was refused", peer=peer, code=error.code)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        if not actor.role.includes(needed):
            reason = f"this needs a token with the role {needed}, and this one has {actor.role}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
        return actor

    async def _check(self, given: str) -> Actor:
        if not given.startswith(_BEARER):
            raise TokenRefused("this needs a token", hint="make one on the coordinator's machine: hostler token make")
        token = tickets.check(Kind.ADMIN, given.removeprefix(_BEARER))
        found = await self._store.admin_tokens.find(tickets.digest(token))
        again = "make one on the coordinator's machine: hostler token make"
        if found is None:
            raise TokenRefused("this token was revoked, or is of another installation", hint=again)
        if found.expires_at <= self._store.now():
            raise TokenRefused(f"the token '{found.name}' expired at {found.expires_at:%Y-%m-%d %H:%M} UTC", hint=again)
        return Actor(f"token:{found.name}", found.role, "grpc")
