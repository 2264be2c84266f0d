"""Errors as GitHub's REST interface words them, and the mistakes a user of the simulator can make."""

import http

import msgspec
from aiohttp import web

DOCUMENTATION = "https://docs.github.com/rest"


class ApiError(Exception):
    """An answer other than 2xx: `{"message", "documentation_url", "status"}` and its headers."""

    def __init__(self, status: int, message: str, *, page: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.documentation_url = f"{DOCUMENTATION}/{page}" if page else DOCUMENTATION
        self.headers = headers or {}

    def response(self) -> web.Response:
        body = {"message": self.message, "documentation_url": self.documentation_url, "status": str(self.status)}
        return json_response(body, status=self.status, headers=self.headers)


class SimulatorError(Exception):
    """The simulator was asked for something that makes no sense, such as a job in an unknown repository."""


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        headers={"Content-Type": "application/json; charset=utf-8", **(headers or {})},
        reason=http.HTTPStatus(status).phrase,
    )
