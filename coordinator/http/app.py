"""The HTTP application: every route of the coordinator."""

from litestar import Litestar, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from coordinator.http.errors import ApiError, answer_api_error, answer_http_exception, answer_unexpected
from coordinator.http.webhooks import LARGEST_BODY, Webhooks
from coordinator.runner_api.routes import RunnerApi


@get("/healthz", media_type="text/plain")
async def health() -> str:
    """For load balancers: the process answers."""
    return "ok\n"


def build(webhooks: Webhooks, runner_api: RunnerApi) -> Litestar:
    routes: list[HTTPRouteHandler] = [health, *webhooks.routes(), *runner_api.routes()]
    return Litestar(
        route_handlers=routes,
        request_max_body_size=LARGEST_BODY,
        openapi_config=None,
        logging_config=None,
        exception_handlers={
            ApiError: answer_api_error,
            HTTPException: answer_http_exception,
            Exception: answer_unexpected,
        },
    )
