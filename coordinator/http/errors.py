"""Answers to requests that cannot be served, in the form GARM's clients know: `{"error", "details"}`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

log = structlog.get_logger()

AnyRequest = Request[Any, Any, Any]


class ErrorBody(msgspec.Struct, frozen=True):
    error: str
    details: str


class ApiError(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, details: str, headers: Mapping[str, str] | None = None, *, error: str = "") -> None:
        """`error`: a word that clients know; else the status's own."""
        super().__init__(details)
        self.status = status
        self.details = details
        self.headers = headers or {}
        self.error = error or HTTPStatus(status).phrase


def answer_api_error(_: AnyRequest, error: ApiError) -> Response[ErrorBody]:
    return Response(ErrorBody(error.error, error.details), status_code=error.status, headers=error.headers)


def answer_http_exception(_: AnyRequest, error: HTTPException) -> Response[ErrorBody]:
    return _answer(error.status_code, _said(error))


def answer_unexpected(request: AnyRequest, error: Exception) -> Response[ErrorBody]:
    log.error("request failed", path=request.url.path, exc_info=error)
    return _answer(500, "the request failed; the coordinator's log says why")


def _answer(status: int, details: str) -> Response[ErrorBody]:
    return Response(ErrorBody(HTTPStatus(status).phrase, details), status_code=status)


def _said(error: HTTPException) -> str:
    """With what is wrong of which field, where the library has looked at the body."""
    extra = error.extra if isinstance(error.extra, list) else []
    faults = [f"{one.get('key', 'body')}: {one.get('message', '')}" for one in extra if isinstance(one, dict)]
    return "; ".join([error.detail, *faults])
