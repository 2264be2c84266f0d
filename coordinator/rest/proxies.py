"""Proxies, without their passwords."""

from datetime import datetime
from typing import Final

import msgspec
from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from coordinator.declare_base import declaration
from coordinator.declare_text import ProxyDeclaration
from coordinator.rest import numbered
from coordinator.rest.params_scale_sets import CreateProxyParams, UpdateProxyParams
from coordinator.rest.view import none
from coordinator.store.edits import PROXY
from coordinator.store.listed import KnownProxy
from coordinator.store.store import Store

_NO_CLOUDS: Final[frozenset[str]] = frozenset()  # only pools name them


class Proxy(msgspec.Struct, frozen=True):
    id: int
    name: str
    description: str
    http_proxy: str
    https_proxy: str
    no_proxy: str
    username: str
    created_at: datetime
    updated_at: datetime


def routes(store: Store) -> list[HTTPRouteHandler]:
    async def told(number: int) -> Proxy:
        return body(numbered.find("proxy", number, await store.edits.proxies()))

    @get("/proxies", operation_id="ListProxies")
    async def list_proxies() -> list[Proxy]:
        return [body(known) for known in await store.edits.proxies()]

    @post("/proxies", status_code=200, operation_id="CreateProxy")
    async def create_proxy(data: JSONBody[CreateProxyParams]) -> Proxy:
        made = await store.edits.add(declaration(ProxyDeclaration, {"name": "", **data.changes()}), _NO_CLOUDS)
        for known in await store.edits.proxies():
            if known.id == made:
                return body(known)
        raise none("proxy", data.name or "")  # it was removed again since

    @get("/proxies/{number:int}", operation_id="GetProxy")
    async def get_proxy(number: FromPath[int]) -> Proxy:
        return await told(number)

    @put("/proxies/{number:int}", operation_id="UpdateProxy")
    async def update_proxy(number: FromPath[int], data: JSONBody[UpdateProxyParams]) -> Proxy:
        """What is left out stays; an empty value is one."""
        numbered.check("proxy", number)
        await store.edits.change(PROXY, number, data.changes(), _NO_CLOUDS)
        return await told(number)

    @delete("/proxies/{number:int}", status_code=200, operation_id="DeleteProxy")
    async def delete_proxy(number: FromPath[int]) -> None:
        numbered.check("proxy", number)
        await store.edits.remove(PROXY, number)

    return [list_proxies, create_proxy, get_proxy, update_proxy, delete_proxy]


def body(known: KnownProxy) -> Proxy:
    return Proxy(
        id=known.number,
        name=known.name,
        description=known.description,
        http_proxy=known.http_proxy,
        https_proxy=known.https_proxy,
        no_proxy=known.no_proxy,
        username=known.username,
        created_at=known.times.created_at,
        updated_at=known.times.changed_at,
    )
