"""Reading REST requests as GitHub does: bodies, numbers in paths, pages."""

import re
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from tests.forge_simulator.errors import ApiError

T = TypeVar("T")


async def read_body(request: web.Request, shape: type[T], page: str) -> T:
    """Read a JSON body: 400 when it is no JSON, 422 when it lacks something or something has the wrong type."""
    raw = await request.read()
    try:
        msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise ApiError(400, "Problems parsing JSON", page=page) from error
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.ValidationError as error:
        missing = re.search(r"missing required field `(\w+)`", str(error))
        reason = f'"{missing[1]}" wasn\'t supplied.' if missing else str(error)
        raise ApiError(422, f"Invalid request.\n\n{reason}", page=page) from error


def number(request: web.Request, name: str) -> int:
    """Read a number from the path; what is no number is nowhere to be found."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdigit()):
        raise ApiError(404, "Not Found")
    return int(text)


def page_size(request: web.Request) -> int:
    return max(1, min(100, _positive(request, "per_page", default=30)))


def cursor_id(cursor: str) -> int:
    """Read the cursor of the delivery log, which GitHub gives as `v1_<id>`."""
    found = re.fullmatch(r"v1_(\d+)", cursor)
    if found is None:
        raise ApiError(400, "Invalid cursor", page="repos/webhooks")
    return int(found[1])


def paged(items: Sequence[T], request: web.Request, web_url: str) -> tuple[Sequence[T], dict[str, str]]:
    """Give the page that `per_page` and `page` ask for, and the Link header to the others."""
    size, page = page_size(request), max(1, _positive(request, "page", default=1))
    last = max(1, -(-len(items) // size))
    places: dict[str, int] = {}
    if page > 1:
        places |= {"prev": min(page - 1, last), "first": 1}
    if page < last:
        places |= {"next": page + 1, "last": last}
    links = []
    for relation, target in places.items():
        query = urlencode({**request.query, "per_page": size, "page": target})
        links.append(f'<{web_url}{request.path}?{query}>; rel="{relation}"')
    return items[(page - 1) * size : page * size], {"Link": ", ".join(links)} if links else {}


def _positive(request: web.Request, name: str, *, default: int) -> int:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else default
