"""Every operation of GARM's that is served answers with its status and a body of its names and types.

The names and types are in tests/fixtures/rest-contract.json, which `tools/rest-contract` derives from GARM's document.
"""

import base64
import re
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from coordinator.domain.job import JobStatus
from tests.samples.forges import ca_certificate
from tests.samples.http import Site, open_site

CONTRACT: Final = msgspec.json.decode(
    (Path(__file__).parents[1] / "fixtures" / "rest-contract.json").read_bytes(), type=dict[str, dict[str, Any]]
)
OPERATIONS, TYPES = CONTRACT["operations"], CONTRACT["types"]
LOGIN: Final = {"username": "ada", "password": "correct-Horse-battery-9-staple"}
SECRET: Final = "a webhook's secret of 1 line"
ENTITIES: Final[dict[str, dict[str, str]]] = {
    "Repo": {"owner": "o", "name": "r", "credentials_name": "bot"},
    "Org": {"name": "o", "credentials_name": "bot"},
    "Enterprise": {"name": "o", "credentials_name": "bot"},
    "ForgeInstance": {"endpoint_name": "tea", "credentials_name": "brew"},
}

ADDED: Final = {"Instance": {"host"}, "Job": {"job_id"}, "Pool": {"name"}, "User": {"role"}}
"""Ours, which clients of GARM pass over."""

LEFT_OUT: Final = {
    "ControllerInfo": {
        # GARM's agent is not served.
        "agent_url", "allow_insecure_garm_agent", "cached_garm_agent_release_fetched_at", "enable_agent_tools_sync",
        "garm_agent_releases_url", "garm_agent_version",
    },
    "Enterprise": {"events"},
    "ForgeCredentials": {"rate_limit"},
    "ForgeInstance": {"events"},
    # Of what we have not, or not yet: GARM's agent, and runners of scale sets.
    "Instance": {
        "addresses", "capabilities", "heartbeat", "job", "scale_set_id",
    },
    "Job": {"locked_by", "runner_group_id", "runner_group_name", "runner_id", "scaleset_job_id", "started_at"},
    "Organization": {"events"},
    "Pool": {"enable_shell"},
    "Repository": {"events"},
    "ScaleSet": {"enable_shell", "status_messages"},
}  # fmt: skip
"""What no body has: clients written in Go read the empty value."""

_OWNERS: Final = {"repo_id", "org_id", "enterprise_id", "forge_instance_id"}
SOMETIMES: Final = {
    "ControllerInfo": {"ca_cert_bundle"},
    "ForgeCredentials": {"ca_bundle"},
    "ForgeEndpoint": {"ca_cert_bundle", "tools_metadata_url", "use_internal_tools_metadata"},
    "Instance": {"provider_fault"},
    "Job": {"completed_at"} | _OWNERS,
    "Pool": _OWNERS | {"repo_name", "org_name", "enterprise_name"},
    "PoolManagerStatus": {"failure_reason"},
    "ScaleSet": _OWNERS | {"repo_name", "org_name", "enterprise_name"},
    "Template": {"data"},
}


def faults(value: Any, kind: Any, path: str = "body") -> list[str]:
    """Where a value is not of the type that the contract names."""
    if kind is None:
        return [] if value is None else [f"{path}: should be empty"]
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [fault for i, one in enumerate(value) for fault in faults(one, kind[0], f"{path}[{i}]")]
    if kind not in TYPES:
        return [] if _is(value, kind) else [f"{path}: {value!r} is no {kind}"]
    if not isinstance(value, dict):
        return [f"{path}: no object"]
    known = TYPES[kind]
    more = value.keys() - known.keys() - ADDED.get(kind, set())
    less = known.keys() - value.keys() - LEFT_OUT.get(kind, set()) - SOMETIMES.get(kind, set())
    found = [f"{path}.{name}: not in {kind}" for name in more] + [f"{path}.{name}: missing" for name in less]
    for name in value.keys() & known.keys():
        found += faults(value[name], known[name], f"{path}.{name}")
    return found


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, dict)
        case "time":
            return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
        case "bytes":
            return isinstance(value, str) and bool(base64.b64decode(value, validate=True))
    raise AssertionError(f"the contract has a type '{kind}' that this test does not know")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        yield opened


async def test_every_operation_answers_as_documented(site: Site) -> None:
    called: dict[str, Any] = {}
    headers: dict[str, str] = {}

    async def call(operation: str, *parts: object, **said: Any) -> Any:
        """`parts`: what its path is filled with."""
        path = OPERATIONS[operation]["path"]
        for part in parts:
            start, end = path.index("{"), path.index("}")
            path = f"{path[:start]}{part}{path[end + 1 :]}"
        content = msgspec.json.encode(said) if said else None
        method = OPERATIONS[operation]["method"].upper()
        answer = await site.client.request(method, f"/api/v1{path}", content=content, headers=headers)
        assert answer.status_code == 200, f"{operation}: {answer.text}"
        called[operation] = answer.json() if answer.content else None
        assert faults(called[operation], OPERATIONS[operation]["body"], operation) == []
        return called[operation]

    await call("FirstRun", **LOGIN, email="ada@example.org", full_name="Ada")
    headers["Authorization"] = f"Bearer {(await call('Login', **LOGIN))['token']}"
    await call("GetMetricsToken")
    await call("ControllerInfo")
    bundle = base64.b64encode(ca_certificate().encode()).decode()
    assert (await call("UpdateController", webhook_url="https://hooks.example", ca_cert_bundle=bundle))[
        "ca_cert_bundle"
    ]
    assert await call("ListProviders")

    await call(
        "CreateGithubEndpoint", name="ghes", base_url="https://g.example", api_base_url="https://g.example/api/v3"
    )
    await call("UpdateGithubEndpoint", "ghes", description="x")
    await call("GetGithubEndpoint", "ghes")
    assert await call("ListGithubEndpoints")
    await call("CreateGiteaEndpoint", name="tea", base_url="https://tea.example")
    await call("UpdateGiteaEndpoint", "tea", ca_cert_bundle=bundle)
    assert (await call("GetGiteaEndpoint", "tea"))["ca_cert_bundle"]
    assert await call("ListGiteaEndpoints")
    number = (await call("CreateCredentials", name="bot", endpoint="ghes", pat={"oauth2_token": "t"}))["id"]
    of_tea = (await call("CreateGiteaCredentials", name="brew", endpoint="tea", pat={"oauth2_token": "t"}))["id"]
    await call("UpdateGiteaCredentials", of_tea, description="x")
    assert (await call("GetGiteaCredentials", of_tea))["ca_bundle"]
    assert await call("ListGiteaCredentials")
    entities: dict[str, str] = {}
    for one, said in ENTITIES.items():
        made = await call(f"Create{one}", webhook_secret=SECRET, **said)
        entity = entities[one] = made["id"]
        await call(f"Update{one}", entity, pool_balancer_type="pack")
        made = await call(
            f"Create{one}Pool", entity, provider_name="cloud", image="i", flavor="f", tags=["x"], extra_specs={"a": 1}
        )
        pool = made["id"]
        await call(f"Update{one}Pool", entity, pool, max_runners=7)
        await call("UpdatePool", pool, priority=1)
        assert (await call(f"Get{one}Pool", entity, pool)) == (await call("GetPool", pool))
        assert await call(f"List{one}Pools", entity)
        assert await call(f"List{one}Instances", entity) == []
        assert (await call(f"Get{one}", entity))["pool"]
        assert await call(f"List{one}s")
        if one != "ForgeInstance":
            await call(f"Create{one}ScaleSet", entity, name="s", provider_name="cloud", image="i", flavor="f")
            assert await call(f"List{one}ScaleSets", entity)
        if one != "Enterprise":
            made = await call(f"Install{one}Webhook", entity, insecure_ssl=False)
            assert await call(f"Get{one}WebhookInfo", entity) == made
            await call(f"Uninstall{one}Webhook", entity)
    await call("UpdateCredentials", number, description="x")
    used = await call("GetCredentials", number)
    assert used["repositories"]
    assert used["organizations"]
    assert used["enterprises"]
    assert await call("ListCredentials")

    machine = await site.sample.instance()
    await site.store.ledger.record(site.sample.event(JobStatus.IN_PROGRESS, runner_name=machine.name))
    assert await call("ListJobs")
    assert any(one["instances"] for one in await call("ListPools"))
    assert await call("ListInstances")
    assert await call("ListPoolInstances", site.sample.pool.id)
    assert await call("ListRepoInstances", site.sample.entity_id)
    await site.store.instances.retire(machine.id, "no disk left", failed=True)
    assert (await call("GetInstance", machine.name))["provider_fault"]
    await call("DeleteInstance", (await site.sample.instance(2)).name)

    for scale_set in await call("ListScalesets"):
        await call("UpdateScaleSet", scale_set["id"], max_runners=7)
        await call("GetScaleSet", scale_set["id"])
        assert await call("ListScaleSetInstances", scale_set["id"]) == []
        await call("DeleteScaleSet", scale_set["id"])
    script = base64.b64encode(b"#!/bin/sh\n").decode()
    template = (await call("CreateTemplate", name="t", data=script, os_type="linux", forge_type="gitea"))["id"]
    await call("UpdateTemplate", template, description="x")
    assert (await call("GetTemplate", template))["data"]
    assert len(await call("ListTemplates")) > 1
    await call("RestoreTemplates", restore_all=True)
    await call("DeleteTemplate", template)
    proxy = (await call("CreateProxy", name="p", http_proxy="http://p.example:3128"))["id"]
    await call("UpdateProxy", proxy, description="x")
    await call("GetProxy", proxy)
    assert await call("ListProxies")
    await call("DeleteProxy", proxy)

    for one, entity in entities.items():
        (pool,) = [found["id"] for found in await call(f"List{one}Pools", entity)]
        await call(f"Delete{one}Pool", entity, pool)
        await call("DeletePool", pool)
        await call(f"Delete{one}", entity)
    await call("DeleteCredentials", number)
    await call("DeleteGiteaCredentials", of_tea)
    await call("DeleteGithubEndpoint", "ghes")
    await call("DeleteGiteaEndpoint", "tea")
    assert set(called) == await _served(site)


async def test_every_refusal_has_the_documented_body(site: Site) -> None:
    headers: dict[str, str] = {}
    for step in range(2):
        for operation in sorted(await _served(site) - {"FirstRun", "Login"}):
            method, path = OPERATIONS[operation]["method"], _NUMBERS.sub("7", OPERATIONS[operation]["path"])
            answer = await site.client.request(method, f"/api/v1{path}", json={"name": ""}, headers=headers)
            if step == 0 or answer.status_code != 200:
                assert answer.status_code in (400, 401, 404, 409), f"{operation}: {answer.text}"
                assert faults(answer.json(), "APIErrorResponse", operation) == []
        await site.client.post("/api/v1/first-run", json=LOGIN | {"email": "ada@example.org"})
        token = (await site.client.post("/api/v1/auth/login", json=LOGIN)).json()["token"]
        headers["Authorization"] = f"Bearer {token}"


_NUMBERS: Final = re.compile(r"\{(id|scalesetID|templateID|proxyID)\}")


async def _served(site: Site) -> set[str]:
    """Of GARM's operations."""
    document = (await site.client.get("/api/v1/openapi.json")).json()
    ours = {one["operationId"] for operations in document["paths"].values() for one in operations.values()}
    return ours & OPERATIONS.keys()


@pytest.mark.parametrize(
    ("value", "kind", "fault"),
    [
        ({"error": "x"}, "APIErrorResponse", "missing"),
        ({"error": "x", "details": 1}, "APIErrorResponse", "is no string"),
        ({"error": "x", "details": "", "more": 1}, "APIErrorResponse", "not in APIErrorResponse"),
        ([{}], ["Tag"], "body[0].id: missing"),
        ("", None, "should be empty"),
        (True, "integer", "is no integer"),
    ],
)
def test_a_body_that_is_not_as_documented_is_found(value: object, kind: object, fault: str) -> None:
    assert any(fault in one for one in faults(value, kind))
