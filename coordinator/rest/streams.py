"""The websockets of GARM: events of what is changed, and the log as it is written.

Of events nothing is sent until the client has said what it wants; later filters take the place of earlier ones.
Facts: GARM, database events.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Final, Literal

import msgspec
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import WebsocketRouteHandler

from coordinator.accounts.accounts import Accounts
from coordinator.accounts.roles import Role, acting
from coordinator.rest.events import Event, Events
from coordinator.rest.fleet import Where
from coordinator.rest.guard import bearer, needs
from coordinator.store.store import Store
from coordinator.tokens import TokenInvalid
from hostler import logtap

AnySocket = WebSocket[Any, Any, Any]

_CHECKED_SECONDS: Final = 60.0
"""How long a stream goes on after its token has ended, at most."""

_BAD_FILTER: Final = 4400
_TOKEN_ENDED: Final = 4401
_Operation = Literal["create", "update", "delete"]


class Filter(msgspec.Struct, frozen=True, rename="kebab"):
    entity_type: str
    operations: list[_Operation] = []  # none: all of them


class Options(msgspec.Struct, frozen=True, rename="kebab"):
    send_everything: bool = False
    filters: list[Filter] = []

    def wants(self, event: Event) -> bool:
        return self.send_everything or any(
            one.entity_type == event.entity_type and (not one.operations or event.operation in one.operations)
            for one in self.filters
        )


def routes(store: Store, accounts: Accounts, where: Where) -> list[WebsocketRouteHandler]:
    events = Events(store, where)

    @websocket("/ws/events", opt=needs(Role.VIEWER))
    async def watch_events(socket: AnySocket) -> None:
        wanted = Options()
        role = acting.get().role

        def filtered(text: str) -> None:
            nonlocal wanted
            wanted = msgspec.json.decode(text, type=Options)

        async def told() -> AsyncIterator[bytes]:
            async with aclosing(store.feed.listen()) as changes:
                async for change in changes:
                    if not (wanted.send_everything or wanted.filters):
                        continue
                    for event in await events.of(change):
                        if wanted.wants(event) and event.is_for(role):
                            yield msgspec.json.encode(event)

        await _serve(socket, accounts, told(), filtered)

    @websocket(["/ws", "/ws/logs"], opt=needs(Role.ADMIN))
    async def watch_logs(socket: AnySocket) -> None:
        await _serve(socket, accounts, logtap.lines(), lambda _: None)

    return [watch_events, watch_logs]


async def _serve(
    socket: AnySocket, accounts: Accounts, told: AsyncIterator[bytes], filtered: Callable[[str], None]
) -> None:
    """Until the client goes, says what is no filter, or its token ends."""
    await socket.accept()
    parts: list[Awaitable[int]] = [_send(socket, told), _hear(socket, filtered), _watch_token(socket, accounts)]
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    codes = [task.result() for task in done if task.exception() is None]
    if codes and codes[0]:
        with suppress(WebSocketDisconnect, RuntimeError):  # it has gone meanwhile
            await socket.close(code=codes[0])


async def _send(socket: AnySocket, told: AsyncIterator[bytes]) -> int:
    async for one in told:
        await socket.send_text(one.decode())
    return 0


async def _hear(socket: AnySocket, filtered: Callable[[str], None]) -> int:
    try:
        while True:
            filtered(await socket.receive_text())
    except WebSocketDisconnect:
        return 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return _BAD_FILTER


async def _watch_token(socket: AnySocket, accounts: Accounts) -> int:
    token = bearer(socket.headers.get("authorization", ""))
    while True:
        await asyncio.sleep(_CHECKED_SECONDS)
        try:
            await accounts.who(token)
        except TokenInvalid:
            return _TOKEN_ENDED
