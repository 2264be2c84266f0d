"""Entities of every kind, and the endpoints and credentials of every kind of forge, as clients of GARM declare them."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest

from coordinator.accounts.roles import Role
from coordinator.domain.fleet import AuthKind
from coordinator.forges.contract import ForgeRefused
from coordinator.forges.forges import Forges
from hostler import tickets
from hostler.tickets import Kind
from tests.samples.forges import app_key, ca_certificate
from tests.samples.http import Site, body, open_site

TOKEN: Final = tickets.ticket(Kind.ADMIN, b"0123456789abcdef")
SECRET: Final = "another-planted-secret-5772156649"
PAT: Final = "planted-gitea-token-1618033988"
GITEA: Final = {"name": "tea", "base_url": "https://tea.example/"}
ENTITY: Final = {"credentials_name": "token", "webhook_secret": SECRET}
POOL: Final = {"provider_name": "cloud", "image": "ami-1", "flavor": "m9.huge", "tags": ["gpu"]}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        end = opened.sample.clock().replace(year=2999)
        await opened.store.admin_tokens.keep("t", tickets.digest(TOKEN), end, Role.ADMIN)
        yield opened


async def _call(site: Site, method: str, path: str, said: object = None, status: int = 200) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = await site.client.request(method, f"/api/v1{path}", json=said, headers=headers)
    assert answer.status_code == status, answer.text
    assert SECRET not in answer.text
    assert PAT not in answer.text
    assert "PRIVATE KEY" not in answer.text
    return answer.json() if answer.content else None


async def _gitea(site: Site) -> int:
    await _call(site, "POST", "/gitea/endpoints", GITEA)
    said = {"name": "brew", "endpoint": "tea", "pat": {"oauth2_token": PAT}}
    return int((await _call(site, "POST", "/gitea/credentials", said))["id"])


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _at_rest(site: Site, text: str) -> bool:
    kept = b"".join(path.read_bytes() for path in site.sample.directory.iterdir() if path.is_file())
    assert b"forge.example" in kept
    return text.encode() in kept


# --- entities ---

KINDS: Final[list[tuple[str, dict[str, object], str, str]]] = [
    ("/organizations", {"name": "Acme"}, "org", "Acme"),
    ("/enterprises", {"name": "Acme"}, "enterprise", "Acme"),
    ("/forge-instances", {"credentials_name": "brew", "endpoint_name": "tea"}, "forge_instance", ""),
]


@pytest.mark.parametrize(("path", "said", "short", "name"), KINDS, ids=[kind[0] for kind in KINDS])
async def test_entities_of_every_kind_live_as_repositories_do(
    site: Site, path: str, said: dict[str, object], short: str, name: str
) -> None:
    await _gitea(site)
    made = await _call(site, "POST", path, ENTITY | said)
    mine = f"{path}/{made['id']}"
    assert (made.get("name", ""), made["pool"], made["pool_balancing_type"]) == (name, [], "roundrobin")
    assert made["pool_manager_status"]["running"] is False
    assert "cannot be registered" in made["pool_manager_status"]["failure_reason"]
    await _call(site, "POST", path, ENTITY | said, 409)
    changed = await _call(site, "PUT", mine, {"pool_balancer_type": "pack"})
    assert changed == made | {"pool_balancing_type": "pack"}
    assert await _call(site, "GET", mine) == changed
    assert await _call(site, "GET", path) == [changed]
    for query in ("endpoint=nowhere", *(["name=other"] if name else [])):
        assert await _call(site, "GET", f"{path}?{query}") == []
    pool = await _call(site, "POST", f"{mine}/pools", POOL)
    assert pool[f"{short}_id"] == made["id"]
    assert pool.get(f"{short}_name", "") == name
    assert "repo_id" not in pool
    assert (await _call(site, "PUT", f"{mine}/pools/{pool['id']}", {"priority": 3}))["priority"] == 3
    assert [one["id"] for one in await _call(site, "GET", f"{mine}/pools")] == [pool["id"]]
    assert await _call(site, "GET", f"{mine}/pools/{pool['id']}") == await _call(site, "GET", f"/pools/{pool['id']}")
    assert await _call(site, "GET", f"{mine}/instances") == []
    assert "has pools" in (await _call(site, "DELETE", mine, status=400))["details"]
    await _call(site, "DELETE", f"{mine}/pools/{pool['id']}")
    await _call(site, "DELETE", mine)
    for method, nothing in (("GET", None), ("PUT", {}), ("DELETE", None)):
        await _call(site, method, mine, nothing, 404)


async def test_an_entity_is_none_of_another_kind(site: Site) -> None:
    theirs = f"/organizations/{site.sample.entity_id}"
    for method, said in (("GET", None), ("PUT", {}), ("DELETE", None)):
        await _call(site, method, theirs, said, 404)
    await _call(site, "GET", f"{theirs}/pools", status=404)
    await _call(site, "POST", f"{theirs}/pools", POOL, 404)
    await _call(site, "DELETE", f"{theirs}/pools/{site.sample.pool.id}", status=404)
    assert (await _call(site, "GET", f"/repositories/{site.sample.entity_id}"))["name"] == "Widgets"


@pytest.mark.parametrize(
    ("path", "said", "reason"),
    [
        ("/enterprises", {"name": "Acme", "credentials_name": "brew"}, "enterprises are github only"),
        ("/forge-instances", {}, "forge instances are gitea only"),
        ("/forge-instances", {"credentials_name": "brew", "endpoint_name": "forge"}, "of the endpoint 'tea'"),
        ("/organizations", {"name": "A/B"}, "name: "),
        ("/organizations", {"name": "Acme", "webhook_secret": "short"}, "webhook_secret: "),
        ("/organizations", {"name": "Acme", "credentials_name": "nobody"}, "there are no credentials 'nobody'"),
    ],
)
async def test_an_entity_that_cannot_be_is_refused(site: Site, path: str, said: dict[str, object], reason: str) -> None:
    await _gitea(site)
    assert reason in (await _call(site, "POST", path, ENTITY | said, 400))["details"]


async def test_what_is_made_by_rest_is_what_a_file_declares(site: Site) -> None:
    await _gitea(site)
    for path, said, _, _ in KINDS:
        made = await _call(site, "POST", path, ENTITY | said)
        await _call(site, "POST", f"{path}/{made['id']}/pools", POOL | {"name": "p", "enabled": True})
    entity = f'webhook_secret = "{SECRET}"\n'
    pool = 'name = "p"\nprovider = "cloud"\nimage = "ami-1"\nflavor = "m9.huge"\nlabels = ["gpu"]\n'
    pool += 'runner_prefix = "garm"\n'
    document = f"""
[[organization]]
endpoint = "forge"
name = "Acme"
credentials = "token"
{entity}
[[enterprise]]
endpoint = "forge"
name = "Acme"
credentials = "token"
{entity}
[[forge_instance]]
endpoint = "tea"
credentials = "brew"
{entity}
[[pool]]
endpoint = "forge"
organization = "acme"
{pool}
[[pool]]
endpoint = "forge"
enterprise = "Acme"
{pool}
[[pool]]
endpoint = "tea"
forge_instance = true
{pool}
"""
    assert await site.sample.apply(document) == []


async def test_jobs_say_whose_they_are(site: Site) -> None:
    await site.sample.queue()
    (job,) = await _call(site, "GET", "/jobs")
    assert (job["repo_id"], "org_id" in job) == (site.sample.entity_id, False)


async def test_a_late_webhook_of_a_repository_that_was_removed_is_answered_as_a_strangers(site: Site) -> None:
    content = body()
    owner = await site.store.catalog.repository("https://forge.example", "octo", "widgets")
    await _call(site, "DELETE", f"/pools/{site.sample.pool.id}")
    await _call(site, "DELETE", f"/repositories/{site.sample.entity_id}")
    with mock.patch.object(site.store.catalog, "repository", mock.AsyncMock(return_value=owner)):
        assert (await site.post(content)).status_code == 200  # it was looked up just before
    assert await site.jobs() == 0


# --- forges ---


async def test_an_endpoint_that_has_credentials_stays_where_it_is(site: Site) -> None:
    """Whoever could move it would be sent a token that the API never shows."""
    for name in ("base_url", "api_base_url", "upload_base_url"):
        refused = await _call(site, "PUT", "/github/endpoints/forge", {name: "https://evil.example"}, 400)
        assert refused["details"] == "cannot update endpoint URLs with existing credentials"
    same = {"base_url": "https://forge.example", "description": "ours"}
    assert (await _call(site, "PUT", "/github/endpoints/forge", same))["description"] == "ours"
    await _call(site, "POST", "/gitea/endpoints", GITEA)
    moved = {"base_url": "https://new.example", "api_base_url": "https://new.example"}
    assert (await _call(site, "PUT", "/gitea/endpoints/tea", moved))["base_url"] == "https://new.example"


async def test_endpoints_of_gitea_are_not_those_of_github(site: Site) -> None:
    made = await _call(site, "POST", "/gitea/endpoints", GITEA)
    assert (made["endpoint_type"], made["api_base_url"]) == ("gitea", "https://tea.example")
    assert (made["tools_metadata_url"], made["use_internal_tools_metadata"]) == ("", False)
    changed = await _call(site, "PUT", "/gitea/endpoints/tea", {"use_internal_tools_metadata": True})
    assert changed == made | {"use_internal_tools_metadata": True}
    assert [one["name"] for one in await _call(site, "GET", "/gitea/endpoints")] == ["tea"]
    assert [one["name"] for one in await _call(site, "GET", "/github/endpoints")] == ["forge"]
    assert "tools_metadata_url" not in (await _call(site, "GET", "/github/endpoints/forge"))
    for path in ("/github/endpoints/tea", "/gitea/endpoints/forge"):
        await _call(site, "GET", path, status=404)
        await _call(site, "PUT", path, {}, 404)
        await _call(site, "DELETE", path)  # no error, as at GARM, and nothing is removed
    await _call(site, "DELETE", "/gitea/endpoints/tea")
    await _call(site, "GET", "/gitea/endpoints/tea", status=404)
    assert "base_url" in (await _call(site, "POST", "/gitea/endpoints", {"name": "x"}, 400))["details"]


async def test_credentials_of_gitea_are_not_those_of_github(site: Site) -> None:
    number = await _gitea(site)
    made = await _call(site, "GET", f"/gitea/credentials/{number}")
    assert (made["forge_type"], made["auth-type"], made["endpoint"]["name"]) == ("gitea", "pat", "tea")
    assert [one["name"] for one in await _call(site, "GET", "/gitea/credentials")] == ["brew"]
    assert [one["name"] for one in await _call(site, "GET", "/github/credentials")] == ["token"]
    for path in (f"/github/credentials/{number}", "/gitea/credentials/1"):
        await _call(site, "GET", path, status=404)
        await _call(site, "PUT", path, {}, 404)
        await _call(site, "DELETE", path)
    said = {"name": "x", "endpoint": "forge", "pat": {"oauth2_token": "t"}}
    assert "of gitea" in (await _call(site, "POST", "/gitea/credentials", said, 400))["details"]
    assert "of github" in (await _call(site, "POST", "/github/credentials", said | {"endpoint": "tea"}, 400))["details"]
    await _call(site, "PUT", f"/gitea/credentials/{number}", {"description": "x"})
    await _call(site, "DELETE", f"/gitea/credentials/{number}")
    assert await _call(site, "GET", "/gitea/credentials") == []


def _app(**more: object) -> dict[str, object]:
    app: dict[str, object] = {"app_id": 7, "installation_id": 8, "private_key_bytes": _b64(app_key())}
    return {"name": "app", "endpoint": "forge", "auth_type": "app", "app": app | more}


async def test_an_apps_key_is_kept_sealed_and_never_used_as_a_token(site: Site) -> None:
    made = await _call(site, "POST", "/github/credentials", _app())
    assert made["auth-type"] == "app"
    await _call(site, "PUT", f"/repositories/{site.sample.entity_id}", {"credentials_name": "app"})
    access = await site.store.catalog.forge_access(site.sample.entity_id)
    assert (access.token, access.auth) == (app_key().rstrip(), AuthKind.APP)
    forges = Forges(site.store.catalog, None, site.sample.clock)  # type: ignore[arg-type]
    with pytest.raises(ForgeRefused, match="GitHub Apps cannot be used"):
        await forges.of(site.sample.entity_id)
    path = f"/github/credentials/{made['id']}"
    await _call(site, "PUT", path, {"app": {"app_id": 9}})
    assert "PAT credentials for app" in (await _call(site, "PUT", path, {"pat": {"oauth2_token": "t"}}, 400))["details"]
    assert (await site.store.catalog.forge_access(site.sample.entity_id)).token == app_key().rstrip()
    audit = await _call(site, "GET", "/audit")
    assert audit[0]["after"] == {"app_id": 9}
    assert not _at_rest(site, app_key().split("\n")[1])


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (_app() | {"app": None}, "app: "),
        (_app(app_id=0), "app: app_id, installation_id"),
        (_app(installation_id=0), "installation_id: "),
        (_app(private_key_bytes=_b64("no key")), "private_key: must be a PEM of an RSA key"),
        (_app(private_key_bytes="?"), "private_key_bytes: must be text in base64"),
        (_app() | {"auth_type": "ssh"}, "auth_type"),
    ],
)
async def test_an_app_that_cannot_be_is_refused(site: Site, said: dict[str, object], reason: str) -> None:
    assert reason in (await _call(site, "POST", "/github/credentials", said, 400))["details"]


async def test_a_ca_bundle_is_kept_sealed_told_and_not_passed_over(site: Site) -> None:
    bundle = _b64(ca_certificate())
    told = await _call(site, "PUT", "/github/endpoints/forge", {"ca_cert_bundle": bundle})
    assert told["ca_cert_bundle"] == bundle
    assert (await _call(site, "GET", "/github/credentials/1"))["ca_bundle"] == bundle
    await _call(site, "PUT", "/github/endpoints/forge", {"description": "x"})
    assert (await site.store.catalog.forge_access(site.sample.entity_id)).endpoint.ca_bundle == ca_certificate()
    assert not _at_rest(site, ca_certificate().split("\n")[1])
    forges = Forges(site.store.catalog, None, site.sample.clock)  # type: ignore[arg-type]
    with pytest.raises(ForgeRefused, match="CA bundle cannot be used"):
        await forges.of(site.sample.entity_id)
