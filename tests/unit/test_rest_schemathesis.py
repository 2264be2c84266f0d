"""Whatever is called, as our OpenAPI document allows or not: nothing fails inside, and answers are as it says."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import MagicMock

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from coordinator.accounts.roles import Role
from coordinator.declare_pool import ScaleSetDeclaration
from coordinator.declare_text import ProxyDeclaration, TemplateDeclaration
from coordinator.domain.fleet import EntityKind
from coordinator.http import app
from coordinator.rest import api
from coordinator.rest.served import SERVED
from hostler import tickets
from hostler.tickets import Kind
from tests.samples.http import Site, open_site
from tests.samples.store import TWIN

TOKEN: Final = tickets.ticket(Kind.ADMIN, b"0123456789abcdef")
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES: Final = 40
KINDS: Final = ("Repo", "Org", "Enterprise", "ForgeInstance")
ENTITY: Final[dict[str, object]] = {
    "credentials_name": "token", "webhook_secret": "0123456789abcdef", "agent_mode": False, "forge_type": None,
}  # fmt: skip
POOL: Final[dict[str, object]] = {
    "provider_name": "cloud", "image": "i", "flavor": "f", "tags": ["x"], "name": "", "runner_prefix": "",
    "enable_shell": False, "proxy_id": 0, "template_id": 0, "max_runners": None, "min_idle_runners": 0,
}  # fmt: skip
SCALE_SET: Final[dict[str, object]] = {
    "provider_name": "cloud", "image": "i", "flavor": "f", "name": "s", "labels": None, "runner_prefix": "",
    "enable_shell": False, "proxy_id": 0, "template_id": 0, "scale_set_id": 0, "max_runners": None,
    "min_idle_runners": 0,
}  # fmt: skip
OTHERS: Final = """
[[endpoint]]
name = "tea"
kind = "gitea"
base_url = "https://tea.example"
api_base_url = "https://tea.example"
[[credentials]]
name = "brew"
endpoint = "tea"
token = "t"
[[organization]]
endpoint = "forge"
name = "acme"
credentials = "token"
webhook_secret = "0123456789abcdef"
[[enterprise]]
endpoint = "forge"
name = "acme"
credentials = "token"
webhook_secret = "0123456789abcdef"
[[forge_instance]]
endpoint = "tea"
credentials = "brew"
webhook_secret = "0123456789abcdef"
"""
GOOD: Final[dict[str, dict[str, object]]] = {
    "UpdateController": {
        "metadata_url": "", "callback_url": "https://c.example", "webhook_url": None, "minimum_job_age_backoff": 0,
        "agent_url": "", "allow_insecure_garm_agent": False, "ca_cert_bundle": None, "enable_agent_tools_sync": False,
        "garm_agent_releases_url": "", "garm_agent_version": None,
    },
    "CreateGithubEndpoint": {"name": "e", "base_url": "https://e.example", "ca_cert_bundle": None},
    "UpdateGithubEndpoint": {"base_url": "https://forge.example", "api_base_url": None, "ca_cert_bundle": None},
    "CreateGiteaEndpoint": {"name": "t", "base_url": "https://t.example", "ca_cert_bundle": None},
    "UpdateGiteaEndpoint": {"base_url": "https://tea.example", "api_base_url": None, "ca_cert_bundle": None},
    "CreateCredentials": {"name": "c", "endpoint": "forge", "auth_type": "pat", "pat": {"oauth2_token": "t"}},
    "CreateGiteaCredentials": {"name": "b", "endpoint": "tea", "auth_type": "pat", "pat": {"oauth2_token": "t"}},
    "UpdateCredentials": {"app": None},
    "CreateRepo": {"owner": "o", "name": "r"} | ENTITY,
    "CreateOrg": {"name": "o"} | ENTITY,
    "CreateEnterprise": {"name": "o"} | ENTITY,
    "CreateForgeInstance": ENTITY | {"credentials_name": "brew", "endpoint_name": "tea"},
    **{f"Update{one}": {"credentials_name": "", "webhook_secret": None, "agent_mode": False} for one in KINDS},
    **{f"Create{one}Pool": POOL for one in KINDS},
    **{f"Create{one}ScaleSet": SCALE_SET for one in KINDS},
    "UpdateScaleSet": {
        "enable_shell": False, "proxy_id": 0, "template_id": 0, "state": "", "extended_state": "", "name": "",
    },
    "CreateTemplate": {"name": "t", "data": "IyEvYmluL3NoCg==", "os_type": "linux", "forge_type": "github"},
    "UpdateTemplate": {"data": ""},
    "CreateProxy": {"name": "p", "http_proxy": "http://p.example:3128", "https_proxy": ""},
    "UpdateProxy": {"http_proxy": None, "https_proxy": None, "name": "corner"},
    "UpdatePool": {"enable_shell": False, "proxy_id": 0, "template_id": 0, "tags": None, "runner_prefix": None},
    **{
        f"Update{one}Pool": {"enable_shell": False, "proxy_id": 0, "template_id": 0, "flavor": "", "tags": None}
        for one in KINDS
    },
    "CreateToken": {"name": "t-2"},
}  # fmt: skip
"""Of bodies: what keeps a call from being refused, whatever the other keys say."""


def _document() -> dict[str, Any]:
    """As it is served; nothing of it depends on an installation."""
    webhooks = MagicMock(routes=MagicMock(return_value=[]))
    router = api.router(MagicMock(), MagicMock(), MagicMock(clouds=()), MagicMock(), MagicMock())
    return app.public(webhooks, router).openapi_schema.to_schema()


SCHEMA: Final[Any] = schemathesis.openapi.from_dict(_document())
CALLS: Final = [result.ok() for result in SCHEMA.get_all_operations()]


class Caller:
    """A site on an event loop of its own: what makes the calls up is not asynchronous."""

    def __init__(self, runner: asyncio.Runner, site: Site) -> None:
        self._runner = runner
        self._site = site
        self.known: dict[str, object] = {}  # parameters of paths
        self._entities: dict[EntityKind, str] = {}

    async def look(self) -> None:
        """Make what there is to be found, where it is not there."""
        sample = self._site.sample
        await sample.fill()
        await sample.apply(TWIN)
        await sample.apply(OTHERS)
        for new in (
            ScaleSetDeclaration(
                endpoint="forge", repository="Octo/Widgets", name="there", provider="cloud", image="i", flavor="f",
                labels=["x"],
            ),
            TemplateDeclaration(name="there", data="#!/bin/sh"),
            ProxyDeclaration(name="corner", http_proxy="http://p.example:3128"),
        ):  # fmt: skip
            await sample.store.edits.add(new, frozenset({"cloud"}))
        machine = await sample.instance()
        self.known = {"pool_id": sample.pool.id, "name": machine.name}
        found = await sample.store.catalog.entities()
        self._entities = {one.kind: one.id for one in found} | {EntityKind.REPOSITORY: sample.entity_id}

    def aim(self, case: Any) -> None:
        """At what is there, with what it needs."""
        of_gitea = "/gitea/" in case.path
        known = self.known | ({"name": "tea" if of_gitea else "forge"} if "/endpoints" in case.path else {})
        known |= {"number": 2 if of_gitea else 1001 if "/templates" in case.path else 1}
        known |= {"entity_id": next((self._entities[one.kind] for one in SERVED if f"{one.path}/" in case.path), "")}
        case.path_parameters |= {name: known[name] for name in case.path_parameters if name in known}
        if isinstance(case.body, dict):
            case.body |= GOOD.get(case.operation.definition.raw["operationId"], {})

    def __call__(self, case: Any) -> httpx.Response:
        said = case.as_transport_kwargs(base_url="http://coordinator.example")
        said["headers"] = dict(said["headers"]) | {"Authorization": f"Bearer {TOKEN}"}
        request: Any = requests.Request(**said).prepare()
        return self._runner.run(
            self._site.client.request(request.method, request.url, headers=request.headers, content=request.body)
        )


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as directory:
        stack = AsyncExitStack()

        async def start() -> Site:
            site = await stack.enter_async_context(open_site(Path(directory)))
            end = site.sample.clock().replace(year=2999)
            await site.store.admin_tokens.keep("t", tickets.digest(TOKEN), end, Role.ADMIN)
            return site

        one = Caller(runner, runner.run(start()))
        runner.run(one.look())
        yield one
        runner.run(stack.aclose())


def _allowed_or_not(operation: Any) -> st.SearchStrategy[Any]:
    allowed: st.SearchStrategy[Any] = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not operation.body and not operation.query:
        return allowed
    return st.one_of(allowed, operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))


@pytest.mark.parametrize("operation", CALLS, ids=lambda operation: operation.label)
def test_no_call_fails_inside(caller: Caller, operation: Any) -> None:
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=_allowed_or_not(operation), there=st.booleans())
    def call(case: Any, there: bool) -> None:
        if there:
            caller.aim(case)
        case.validate_response(caller(case), checks=CHECKS)

    call()


def test_what_fails_or_is_not_as_documented_is_seen() -> None:
    (operation,) = [one for one in CALLS if one.label == "GET /api/v1/controller-info"]
    case = operation.Case()
    for status, body in ((500, b"{}"), (418, b"{}"), (200, b"{}")):
        request = httpx.Request("GET", "http://coordinator.example/api/v1/controller-info")
        answer = httpx.Response(status, content=body, headers={"content-type": "application/json"}, request=request)
        answer.elapsed = timedelta()
        with pytest.raises(FailureGroup):
            case.validate_response(answer, checks=CHECKS)
