"""The API's router under /api/v1, and the document that describes it, which the framework makes from the code."""

from typing import Final

from litestar import Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from coordinator.accounts.accounts import Accounts
from coordinator.rest import accounts as account_routes
from coordinator.rest import fleet, forges, pools, repositories
from coordinator.rest.errors import answer_hostler_error
from coordinator.rest.fleet import MayGo, Where
from coordinator.rest.guard import guard
from coordinator.store.store import Store
from hostler import __version__
from hostler.errors import HostlerError

BASE: Final = "/api/v1"
_LARGEST_BODY: Final = 1024 * 1024


def router(store: Store, accounts: Accounts, where: Where, may_go: MayGo) -> Router:
    handlers: list[HTTPRouteHandler] = [
        *account_routes.routes(store, accounts),
        *forges.routes(store),
        *repositories.routes(store),
        *pools.routes(store, frozenset(where.clouds)),
        *fleet.routes(store, where, may_go),
    ]
    return Router(
        BASE,
        route_handlers=handlers,
        guards=[guard(accounts)],
        exception_handlers={HostlerError: answer_hostler_error},
        request_max_body_size=_LARGEST_BODY,
    )


def document() -> OpenAPIConfig:
    """Served at /api/v1/openapi.json to anybody: it says nothing of this installation."""
    return OpenAPIConfig(
        title="Hostler",
        version=__version__,
        path=BASE,
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        use_handler_docstrings=True,
    )
