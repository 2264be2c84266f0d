"""The webhook by which an entity's forge tells us of its jobs: installed, shown and removed."""

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
import structlog
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from coordinator.domain.fleet import EntityKind
from coordinator.forges.contract import ForgeError, Hooks, Webhook
from coordinator.http.errors import ApiError
from coordinator.rest.served import SERVED, Served
from coordinator.rest.view import declared
from coordinator.store.store import Store

log = structlog.get_logger()

HooksOf = Callable[[str], Awaitable[Hooks]]
"""The forge's client for an entity's webhooks. Raises ForgeError."""


class Addresses(msgspec.Struct, frozen=True):
    """Where webhooks may be sent; what comes to either is taken alike."""

    direct: str
    controller: str  # of this installation alone: what is sent to it is for nobody else

    @property
    def all(self) -> set[str]:
        return {self.direct, self.controller}


class InstallWebhookParams(msgspec.Struct, frozen=True):
    insecure_ssl: bool | None = None
    webhook_endpoint_type: Literal["", "direct", "controller"] | None = None


class HookInfo(msgspec.Struct, frozen=True):
    id: int
    url: str
    events: list[str]
    active: bool
    insecure_ssl: bool


class EntityWebhooks:
    """What is done with the webhook of one entity; others' webhooks are let alone."""

    def __init__(self, store: Store, hooks_of: HooksOf, addresses: Callable[[], Awaitable[Addresses]]) -> None:
        self._store = store
        self._hooks_of = hooks_of
        self._addresses = addresses

    async def install(self, entity_id: str, said: InstallWebhookParams) -> Webhook:
        where = await self._addresses()
        url = where.controller if said.webhook_endpoint_type == "controller" else where.direct
        hooks = await self._hooks_of(entity_id)
        if any(one.url == url for one in await hooks.webhooks()):
            raise ApiError(409, f"there is a webhook to {url} already")
        secret = await self._store.catalog.webhook_secret(entity_id)
        made = await hooks.install_webhook(url, secret, insecure_ssl=bool(said.insecure_ssl))
        await self._store.tell(
            "installed", f"webhook to {url}", {"entity": entity_id, "insecure_ssl": made.insecure_ssl}
        )
        return made

    async def ours(self, entity_id: str) -> list[Webhook]:
        where = await self._addresses()
        return [one for one in await (await self._hooks_of(entity_id)).webhooks() if one.url in where.all]

    async def uninstall(self, entity_id: str) -> None:
        await self._remove(await self._hooks_of(entity_id), await self.ours(entity_id), entity_id)

    async def leaving(self, entity_id: str) -> Callable[[], Awaitable[None]]:
        """Look at an entity that is about to be removed; what removes its webhooks when it is gone.

        A forge that cannot be asked keeps nobody from removing an entity: then webhooks of it may be left there.
        """
        try:
            hooks, found = await self._hooks_of(entity_id), await self.ours(entity_id)
        except ForgeError as error:
            log.warning("a webhook may be left at the forge", entity=entity_id, reason=str(error))
            return _nothing

        async def remove() -> None:
            try:
                await self._remove(hooks, found, entity_id)
            except ForgeError as error:
                log.warning("a webhook may be left at the forge", entity=entity_id, reason=str(error))

        return remove

    async def _remove(self, hooks: Hooks, found: list[Webhook], entity_id: str) -> None:
        for one in found:
            await hooks.remove_webhook(one.id)
            await self._store.tell("uninstalled", f"webhook to {one.url}", {"entity": entity_id})


async def _nothing() -> None:
    pass


def routes(store: Store, webhooks: EntityWebhooks) -> list[HTTPRouteHandler]:
    with_hooks = [served for served in SERVED if served.kind is not EntityKind.ENTERPRISE]
    return [one for served in with_hooks for one in _of(store, served, webhooks)]


def _of(store: Store, served: Served, webhooks: EntityWebhooks) -> list[HTTPRouteHandler]:
    path, kind = f"{served.of_one}/webhook", served.kind

    @get(path, operation_id=f"Get{served.one}WebhookInfo")
    async def get_webhook(entity_id: FromPath[str]) -> HookInfo:
        (await declared(store)).entity(kind, entity_id)
        found = await webhooks.ours(entity_id)
        if not found:
            raise ApiError(404, f"the {kind.word} has no webhook to us")
        return _body(found[0])

    @post(path, status_code=200, operation_id=f"Install{served.one}Webhook")
    async def install_webhook(entity_id: FromPath[str], data: JSONBody[InstallWebhookParams]) -> HookInfo:
        """`direct` (when it is not said): to the address of all webhooks; `controller`: to this installation's own."""
        (await declared(store)).entity(kind, entity_id)
        return _body(await webhooks.install(entity_id, data))

    @delete(path, status_code=200, operation_id=f"Uninstall{served.one}Webhook")
    async def uninstall_webhook(entity_id: FromPath[str]) -> None:
        """Those to us alone; none is fine."""
        (await declared(store)).entity(kind, entity_id)
        await webhooks.uninstall(entity_id)

    return [get_webhook, install_webhook, uninstall_webhook]


def _body(hook: Webhook) -> HookInfo:
    return HookInfo(hook.id, hook.url, hook.events, hook.active, hook.insecure_ssl)
