"""REST operations on a repository's webhooks: making, removing, pinging, the delivery log and redelivery."""

from collections.abc import Callable
from typing import Literal

import msgspec
from aiohttp import web

from tests.forge_simulator import rest_bodies
from tests.forge_simulator.errors import ApiError, json_response
from tests.forge_simulator.forge import Forge
from tests.forge_simulator.records import Delivery, Hook, Repository
from tests.forge_simulator.rest_requests import cursor_id, number, page_size, paged, read_body
from tests.forge_simulator.webhook_bodies import Addresses, hook_fields, ping
from tests.forge_simulator.webhooks import Sender


class HookConfig(msgspec.Struct, frozen=True):
    url: str
    secret: str = ""
    content_type: Literal["json", "form"] = "form"


class HookRequest(msgspec.Struct, frozen=True):
    config: HookConfig
    events: tuple[str, ...] = ("push",)


class Hooks:
    def __init__(self, forge: Forge, sender: Sender, addresses: Callable[[], Addresses]) -> None:
        self._forge = forge
        self._sender = sender
        self._addresses = addresses

    def _hook(self, request: web.Request, repository: Repository) -> Hook:
        hook = self._forge.hooks.get(number(request, "hook_id"))
        if hook is None or hook.repository_id != repository.id:
            raise ApiError(404, "Not Found", page="repos/webhooks")
        return hook

    async def list_hooks(self, request: web.Request, repository: Repository) -> web.Response:
        shown, headers = paged(self._forge.hooks_of(repository.id), request, self._addresses().web)
        return json_response([hook_fields(repository, hook, self._addresses()) for hook in shown], headers=headers)

    async def create_hook(self, request: web.Request, repository: Repository) -> web.Response:
        page = "repos/webhooks#create-a-repository-webhook"
        wanted = await read_body(request, HookRequest, page)
        if wanted.config.content_type != "json":
            raise ApiError(422, "Validation Failed: the simulator sends only content_type json", page=page)
        if any(hook.url == wanted.config.url for hook in self._forge.hooks_of(repository.id)):
            raise ApiError(422, "Validation Failed: Hook already exists on this repository", page=page)
        hook = self._forge.add_hook(repository, wanted.config.url, wanted.config.secret, wanted.events)
        self._sender.send(hook, "ping", ping(repository, hook, self._addresses()))
        return json_response(hook_fields(repository, hook, self._addresses()), status=201)

    async def delete_hook(self, request: web.Request, repository: Repository) -> web.Response:
        self._forge.remove_hook(self._hook(request, repository))
        return web.Response(status=204)

    async def ping_hook(self, request: web.Request, repository: Repository) -> web.Response:
        hook = self._hook(request, repository)
        self._sender.send(hook, "ping", ping(repository, hook, self._addresses()))
        return web.Response(status=204)

    async def list_deliveries(self, request: web.Request, repository: Repository) -> web.Response:
        found = self._sender.deliveries(self._hook(request, repository).id)
        if (cursor := request.query.get("cursor")) is not None:
            found = [delivery for delivery in found if delivery.id <= cursor_id(cursor)]
        size = page_size(request)
        headers = {}
        if len(found) > size:
            here = f"{self._addresses().web}{request.path}"
            headers["Link"] = f'<{here}?per_page={size}&cursor=v1_{found[size].id}>; rel="next"'
        return json_response([rest_bodies.delivery(delivery) for delivery in found[:size]], headers=headers)

    def _delivery(self, request: web.Request, hook: Hook) -> Delivery:
        wanted = number(request, "delivery_id")
        for delivery in self._sender.deliveries(hook.id):
            if delivery.id == wanted:
                return delivery
        raise ApiError(404, "Not Found", page="repos/webhooks")

    async def get_delivery(self, request: web.Request, repository: Repository) -> web.Response:
        hook = self._hook(request, repository)
        return json_response(rest_bodies.whole_delivery(self._delivery(request, hook), hook))

    async def redeliver(self, request: web.Request, repository: Repository) -> web.Response:
        hook = self._hook(request, repository)
        self._sender.redeliver(self._delivery(request, hook), hook)
        return json_response({}, status=202)
