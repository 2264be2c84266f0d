"""Sending webhooks as GitHub does: signed, in the background, once; with a delivery log and redelivery on request."""

import asyncio
import hashlib
import hmac
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import aiohttp
import msgspec
import structlog

from tests.forge_simulator.faults import Faults, WebhookFate
from tests.forge_simulator.records import Clock, Delivery, Hook

ANSWER_WITHIN_SECONDS: Final = 10.0  # github.com; GitHub Enterprise Server waits 30 s
HISTORY: Final = timedelta(days=3)  # how long github.com keeps deliveries

log = structlog.get_logger()


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way to one hook."""

    hook: Hook
    guid: str
    event: str
    action: str | None
    body: bytes
    redelivery: bool = False

    def headers(self, extra: dict[str, str]) -> dict[str, str]:
        key = self.hook.secret.encode()
        headers = {
            "Accept": "*/*",
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/5a1f0c7",
            "X-GitHub-Delivery": self.guid,
            "X-GitHub-Event": self.event,
            "X-GitHub-Hook-ID": str(self.hook.id),
            "X-GitHub-Hook-Installation-Target-ID": str(self.hook.repository_id),
            "X-GitHub-Hook-Installation-Target-Type": "repository",
            **extra,
        }
        if self.hook.secret:
            headers["X-Hub-Signature"] = "sha1=" + hmac.new(key, self.body, hashlib.sha1).hexdigest()
            headers["X-Hub-Signature-256"] = "sha256=" + hmac.new(key, self.body, hashlib.sha256).hexdigest()
        return headers


class Sender:
    """Sends messages and remembers each attempt. Must be used between `start` and `stop`."""

    def __init__(self, *, clock: Clock, faults: Faults, new_id: Callable[[], int], headers: dict[str, str]) -> None:
        self._clock = clock
        self._faults = faults
        self._new_id = new_id
        self._extra_headers = headers
        self._deliveries: dict[int, Delivery] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held_back: list[asyncio.Event] = []
        self._session: aiohttp.ClientSession | None = None
        self.answer_within_seconds = ANSWER_WITHIN_SECONDS

    async def start(self) -> None:
        # A connection of its own for each: one that idled may be closed by the other side as the next is sent over it.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, skip_auto_headers=("Accept-Encoding",))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def settle(self) -> None:
        """Wait until nothing is on its way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def deliveries(self, hook_id: int) -> list[Delivery]:
        """Give a hook's log, newest first, as far back as GitHub keeps it."""
        oldest = self._clock() - HISTORY
        self._deliveries = {
            number: delivery for number, delivery in self._deliveries.items() if delivery.delivered_at >= oldest
        }
        return [delivery for delivery in reversed(self._deliveries.values()) if delivery.hook_id == hook_id]

    def send(self, hook: Hook, event: str, body: dict[str, Any]) -> None:
        """Send in the background, through the faults now in force."""
        if not hook.active or (event != "ping" and not {event, "*"} & set(hook.events)):
            return
        message = Message(
            hook=hook,
            guid=str(uuid.uuid4()),
            event=event,
            action=body.get("action"),
            body=msgspec.json.encode(body),
        )
        fate = self._faults.webhook()
        if fate.fate == "drop":
            log.info("webhook dropped on purpose", hook=hook.id, event_name=event, action=message.action)
            return
        for _ in range(fate.copies):
            self._run(message, fate)

    def redeliver(self, delivery: Delivery, hook: Hook) -> None:
        """Send a logged delivery again: the same body and guid, without faults."""
        message = Message(
            hook=hook,
            guid=delivery.guid,
            event=delivery.event,
            action=delivery.action,
            body=delivery.body,
            redelivery=True,
        )
        self._run(message, WebhookFate(fate="send", copies=1, delay_seconds=0.0, held_back=False))

    def _run(self, message: Message, fate: WebhookFate) -> None:
        task = asyncio.create_task(self._deliver(message, fate))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, message: Message, fate: WebhookFate) -> None:
        if fate.delay_seconds:
            await asyncio.sleep(fate.delay_seconds)
        if fate.held_back:
            await self._hold_back()
        started = asyncio.get_running_loop().time()
        headers = message.headers(self._extra_headers)
        status, code, answer = (
            ("failed to connect to host", 502, "") if fate.fate == "fail" else (await self._post(message, headers))
        )
        delivery = Delivery(
            id=self._new_id(),
            guid=message.guid,
            hook_id=message.hook.id,
            event=message.event,
            action=message.action,
            repository_id=message.hook.repository_id,
            redelivery=message.redelivery,
            delivered_at=self._clock(),
            duration_seconds=round(asyncio.get_running_loop().time() - started, 3),
            status=status,
            status_code=code,
            request_headers=headers,
            body=message.body,
            response_body=answer,
        )
        self._deliveries[delivery.id] = delivery
        if not fate.held_back:
            self._release_one()

    async def _hold_back(self) -> None:
        """Wait until a later delivery is done, or until the fault's time is over."""
        overtaken = asyncio.Event()
        self._held_back.append(overtaken)
        try:
            await asyncio.wait_for(overtaken.wait(), self._faults.settings.webhooks.reorder_seconds)
        except TimeoutError:
            self._held_back.remove(overtaken)

    def _release_one(self) -> None:
        if self._held_back:
            self._held_back.pop(0).set()

    async def _post(self, message: Message, headers: dict[str, str]) -> tuple[str, int, str]:
        assert self._session is not None, "the sender is not started"
        limit = aiohttp.ClientTimeout(total=self.answer_within_seconds)
        try:
            async with self._session.post(
                message.hook.url, data=message.body, headers=headers, allow_redirects=False, timeout=limit
            ) as response:
                text = await response.text(errors="replace")
        except TimeoutError:
            return "timed out", 504, ""
        except aiohttp.ClientError as error:
            log.warning("webhook not delivered", url=message.hook.url, error=str(error))
            return "failed to connect to host", 502, ""
        if 200 <= response.status < 300:
            return "OK", response.status, text
        return f"Invalid HTTP Response: {response.status}", response.status, text
