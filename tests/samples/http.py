"""The HTTP side of the coordinator on a store with a repository in it, with and without a real socket."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from litestar import Litestar

from coordinator.accounts.accounts import Accounts
from coordinator.accounts.sessions import Sessions
from coordinator.domain.fleet import Entity
from coordinator.domain.instance import Instance
from coordinator.forges.contract import ForgeError, ForgeUnavailable, Webhook
from coordinator.forges.forges import Forges
from coordinator.http import app
from coordinator.http.webhooks import Webhooks
from coordinator.rest import api
from coordinator.rest.fleet import Where
from coordinator.runner_api import scripts
from coordinator.runner_api.routes import RunnerApi
from coordinator.runner_api.waiting import Waiting
from coordinator.store.signing import Purpose
from coordinator.tokens import InstanceTokens
from providers.exec.spec import Tool
from tests.samples.store import WEBHOOK_SECRET, Ids, Sample, open_sample

PUBLIC_URL = "http://coordinator.example:9997"


def payload(action: str = "queued", number: int = 1, **more: Any) -> dict[str, Any]:
    """A `workflow_job` event of the sample's repository."""
    job: dict[str, Any] = {
        "id": number,
        "run_id": 10,
        "run_attempt": 1,
        "html_url": f"https://forge.example/octo/widgets/actions/runs/10/job/{number}",
        "labels": ["self-hosted", "linux"],
        "name": "build",
        "workflow_name": "ci",
        "conclusion": None,
        "runner_name": None,
    }
    repository = {"name": "widgets", "owner": {"login": "octo"}}
    return {"action": action, "workflow_job": job | more, "repository": repository}


def body(action: str = "queued", number: int = 1, **more: Any) -> bytes:
    return json.dumps(payload(action, number, **more)).encode()


def signature(content: bytes, secret: str = WEBHOOK_SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


def headers(content: bytes, event: str = "workflow_job") -> dict[str, str]:
    return {
        "X-GitHub-Event": event,
        "X-Hub-Signature-256": signature(content),
        "Content-Type": "application/json",
    }


class SaidTools(Forges):
    """Answers with what a test says the forge offers; no forge is asked."""

    def __init__(self, offered: list[Tool] | None) -> None:
        self.offered = offered

    async def tools(self, entity_id: str) -> list[Tool]:
        if self.offered is None:
            raise ForgeUnavailable("the forge is down")
        return self.offered


class SaidHooks:
    """A forge's webhooks in memory."""

    def __init__(self) -> None:
        self.there: dict[int, Webhook] = {}
        self.secrets: dict[int, str] = {}
        self.asked: list[str] = []  # entities
        self.fault: ForgeError | None = None

    async def webhooks(self) -> list[Webhook]:
        if self.fault is not None:
            raise self.fault
        return list(self.there.values())

    async def install_webhook(self, url: str, secret: str, *, insecure_ssl: bool) -> Webhook:
        made = Webhook(len(self.there) + 1, url, True, ["workflow_job"], insecure_ssl)
        self.there[made.id], self.secrets[made.id] = made, secret
        return made

    async def remove_webhook(self, webhook_id: int) -> None:
        self.there.pop(webhook_id, None)


class Site:
    """The application and what is behind it."""

    def __init__(self, sample: Sample, *, configuration_seconds: float = 25.0) -> None:
        self.sample = sample
        self.store = sample.store
        self.forges = SaidTools([])
        self.tokens = InstanceTokens(self.store.instance_token_key, sample.clock)
        self.waiting = Waiting()
        self.where = scripts.urls(PUBLIC_URL)
        self.runner_api = RunnerApi(
            self.store, self.forges, self.tokens, self.where, self.waiting, configuration_seconds
        )
        self.webhooks = Webhooks(self.store.catalog, self.store.ledger, self.store.controller_id, clock=sample.clock)
        self.monotonic = 0.0
        keys = self.store.signing_keys
        sessions = Sessions(keys[Purpose.ADMIN], keys[Purpose.METRICS], sample.clock, Ids(77))
        self.accounts = Accounts(self.store, sessions, lambda: self.monotonic)
        said = Where(PUBLIC_URL, self.where.metadata, self.where.callback, ("cloud",))
        self.app: Litestar = app.public(
            self.webhooks, api.router(self.store, self.accounts, said, self._may_go, self._hooks_of)
        )
        self.for_machines: Litestar = app.for_machines(self.runner_api)
        self.forge_says: bool | ForgeUnavailable = True  # whether runners may go
        self.asked: list[int] = []  # runners that the forge was asked to let go
        self.hooks = SaidHooks()
        self.client: httpx.AsyncClient  # of forges
        self.machine: httpx.AsyncClient

    async def _hooks_of(self, entity_id: str) -> SaidHooks:
        self.hooks.asked.append(entity_id)
        return self.hooks

    async def _may_go(self, instance: Instance) -> bool:
        self.asked.append(instance.forge_runner_id)
        if isinstance(self.forge_says, ForgeUnavailable):
            raise self.forge_says
        return self.forge_says

    async def post(self, content: bytes, path: str = "/webhooks", **changed: str | None) -> httpx.Response:
        """Deliver a webhook; `changed` replaces headers (underscores for hyphens) or takes them away (None)."""
        sent: dict[str, str | None] = {name.lower(): value for name, value in headers(content).items()}
        sent |= {name.replace("_", "-"): value for name, value in changed.items()}
        kept = {name: value for name, value in sent.items() if value is not None}
        return await self.client.post(path, content=content, headers=kept)

    async def jobs(self) -> int:
        return len(await self.store.history.jobs(completed=True))

    async def token(self, instance: Instance) -> str:
        return self.tokens.mint(instance, await self._entity(instance))

    async def _entity(self, instance: Instance) -> Entity:
        return (await self.store.catalog.forge_access(instance.entity_id)).entity

    async def call(
        self, method: str, path: str, instance: Instance, said: object = None, **more: Any
    ) -> httpx.Response:
        """Call the runner API as the machine."""
        content = None if said is None else msgspec.json.encode(said)
        authorization = {"Authorization": f"Bearer {await self.token(instance)}"}
        return await self.machine.request(method, f"/api/v1{path}", content=content, headers=authorization, **more)


@asynccontextmanager
async def open_site(directory: Path, *, configuration_seconds: float = 25.0) -> AsyncIterator[Site]:
    async with open_sample(directory) as sample:
        site = Site(sample, configuration_seconds=configuration_seconds)
        async with _client(site.app) as site.client, _client(site.for_machines) as site.machine:
            yield site


def _client(app: Any) -> httpx.AsyncClient:
    """`Any`: the two libraries spell the same protocol differently."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://coordinator.example")
