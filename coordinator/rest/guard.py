"""Who may call what: a bearer token, a role, and the words with which GARM refuses."""

from typing import Any, Final

import structlog
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from coordinator.accounts.accounts import Accounts
from coordinator.accounts.roles import Actor, Role, acting
from coordinator.http.errors import ApiError
from coordinator.tokens import TokenInvalid

log = structlog.get_logger()

_BEARER: Final = "bearer "
_NEEDS: Final = "needs"
OPEN: Final[dict[str, Any]] = {_NEEDS: None}
"""As a handler's `opt`: no token is asked for."""


def needs(role: Role) -> dict[str, Any]:
    """As a handler's `opt`. Without one, looking needs a viewer and changing an administrator."""
    return {_NEEDS: role}


def guard(accounts: Accounts) -> Guard:
    """Lets a call pass or raises ApiError: 401, 403, or 409 where there is nobody yet who could log in."""

    async def check(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        by_method = Role.VIEWER if connection.scope.get("method") in ("GET", "HEAD") else Role.ADMIN
        needed = handler.opt.get(_NEEDS, by_method)
        if needed is None:
            return
        try:
            actor = await _actor(accounts, connection.headers.get("authorization", ""))
        except ApiError as error:
            raise _refusal(connection, error) from None
        if not actor.role.includes(needed):
            details = f"this needs the role {needed}, and {actor.name} has {actor.role}"
            raise _refusal(connection, ApiError(403, details, error="Not Authorized"))
        acting.set(actor)

    return check


def _refusal(connection: ASGIConnection[Any, Any, Any, Any], error: ApiError) -> Exception:
    """A websocket is refused by the framework's own words: nobody hears others before it is accepted."""
    if connection.scope["type"] is ScopeType.WEBSOCKET:
        return NotAuthorizedException(error.details)
    return error


def bearer(header: str) -> str:
    """The token in a header Authorization; empty when there is none."""
    return header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""


async def _actor(accounts: Accounts, header: str) -> Actor:
    reason = "there is no bearer token in the header Authorization"
    if token := bearer(header):
        try:
            return await accounts.who(token)
        except TokenInvalid as error:
            reason = str(error)
    if not await accounts.initialized():
        raise ApiError(409, "Missing superuser", error="init_required")
    raise ApiError(401, reason, {"WWW-Authenticate": "Bearer"}, error="Not Authorized")
