"""The API's router under /api/v1, and the document that describes it, which the framework makes from the code."""

from collections.abc import Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Final

from litestar import Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from coordinator.accounts.accounts import Accounts
from coordinator.http.errors import ErrorBody
from coordinator.rest import accounts as account_routes
from coordinator.rest import entities, fleet, forges, pools, proxies, scale_sets, streams, templates, webhooks
from coordinator.rest.errors import answer_hostler_error
from coordinator.rest.fleet import MayGo, Where
from coordinator.rest.guard import OPEN, guard
from coordinator.rest.webhooks import EntityWebhooks, HooksOf
from coordinator.store.store import Store
from hostler import __version__
from hostler.errors import HostlerError

BASE: Final = "/api/v1"
_LARGEST_BODY: Final = 1024 * 1024


def router(store: Store, accounts: Accounts, where: Where, may_go: MayGo, hooks_of: HooksOf) -> Router:
    entity_webhooks = EntityWebhooks(store, hooks_of, partial(fleet.webhook_addresses, store, where))
    handlers: list[HTTPRouteHandler] = [
        *account_routes.routes(store, accounts),
        *forges.routes(store),
        *entities.routes(store, entity_webhooks),
        *webhooks.routes(store, entity_webhooks),
        *pools.routes(store, frozenset(where.clouds)),
        *scale_sets.routes(store, frozenset(where.clouds)),
        *templates.routes(store),
        *proxies.routes(store),
        *fleet.routes(store, where, may_go),
    ]
    _declare_refusals(handlers)
    return Router(
        BASE,
        route_handlers=[*handlers, *streams.routes(store, accounts, where)],
        guards=[guard(accounts)],
        exception_handlers={HostlerError: answer_hostler_error},
        request_max_body_size=_LARGEST_BODY,
    )


def document() -> OpenAPIConfig:
    """Served at /api/v1/openapi.json to anybody: it says nothing of this installation."""
    scheme = SecurityScheme(
        type="http", scheme="bearer", description="what POST /api/v1/auth/login or POST /api/v1/tokens gives"
    )
    return OpenAPIConfig(
        title="Hostler",
        version=__version__,
        path=BASE,
        components=Components(security_schemes={_BEARER: scheme}),
        security=[{_BEARER: []}],
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        use_handler_docstrings=True,
    )


def _declare_refusals(handlers: Iterable[HTTPRouteHandler]) -> None:
    """Which errors each may answer with, for the document: all have the same body."""
    for handler in handlers:
        is_open = handler.opt == OPEN
        statuses = {400, 409} | (_OF_THE_OPEN if is_open else {401, 403}) | _ALSO.get(handler.operation_id, set())
        if any("{" in path for path in handler.paths):
            statuses.add(404)
        if any(path.endswith("/webhook") for path in handler.paths):
            statuses.add(502)
        if "data" in handler.parsed_fn_signature.parameters:
            statuses.add(413)
        said = {status: ResponseSpec(ErrorBody, False, HTTPStatus(status).phrase) for status in sorted(statuses)}
        handler.responses = said
        handler.security = [{}] if is_open else None


_BEARER: Final = "Bearer"
_OF_THE_OPEN: Final = frozenset({401, 429, 503})  # where passwords are looked at
_ALSO: Final[Mapping[object, set[int]]] = {
    "CreateUser": {503},
    "UpdateUser": {503},
    "DeleteInstance": {502},
}
