"""The HTTP applications: one for forges, one for the machines. Neither serves a path of the other."""

from collections.abc import Sequence
from typing import Final

from litestar import Litestar, Router, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig

from coordinator.http.bodies import LARGEST_BODY
from coordinator.http.errors import ApiError, answer_api_error, answer_http_exception, answer_unexpected
from coordinator.http.webhooks import Webhooks
from coordinator.rest.api import document
from coordinator.runner_api.routes import RunnerApi

_LARGEST_REPORT: Final = 1024 * 1024  # of a machine: a status and a line of text


@get("/healthz", media_type="text/plain", include_in_schema=False)
async def health() -> str:
    """For load balancers: the process answers."""
    return "ok\n"


def public(webhooks: Webhooks, api: Router, metrics: Sequence[HTTPRouteHandler] = ()) -> Litestar:
    """What forges, load balancers, Prometheus and the clients of the REST API call."""
    return _application([health, *webhooks.routes(), *metrics, api], LARGEST_BODY, document())


def for_machines(runner_api: RunnerApi) -> Litestar:
    """The runner API alone: who can reach it can reach nothing else of the coordinator."""
    return _application(runner_api.routes(), _LARGEST_REPORT)


def _application(
    routes: Sequence[HTTPRouteHandler | Router], largest_body: int, openapi: OpenAPIConfig | None = None
) -> Litestar:
    return Litestar(
        route_handlers=routes,
        request_max_body_size=largest_body,
        openapi_config=openapi,
        logging_config=None,
        exception_handlers={
            ApiError: answer_api_error,
            HTTPException: answer_http_exception,
            Exception: answer_unexpected,
        },
    )
