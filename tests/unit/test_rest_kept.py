"""Scale sets, templates and proxies, which clients of GARM declare, and how long they make new jobs wait."""

import base64
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from coordinator.accounts.roles import Role
from coordinator.domain.job import JobStatus
from hostler import tickets
from hostler.tickets import Kind
from tests.samples.http import Site, open_site
from tests.samples.store import WEBHOOK_SECRET

TOKENS: Final = {role: tickets.ticket(Kind.ADMIN, role.value.encode().ljust(16, b"-")) for role in Role}
PASSWORD: Final = "planted-proxy-password-1414213562"
SCALE_SET: Final = {"name": "gpu", "provider_name": "cloud", "image": "ami-1", "flavor": "m9.huge"}
PROXY: Final = {"name": "corner", "http_proxy": "http://proxy.example:3128", "username": "u", "password": PASSWORD}
SCRIPT: Final = "#!/bin/sh\necho {{ runner_name }} planted-in-a-script-6180339887\n"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        end = opened.sample.clock().replace(year=2999)
        for role, token in TOKENS.items():
            await opened.store.admin_tokens.keep(role.value, tickets.digest(token), end, role)
        yield opened


async def _call(
    site: Site, method: str, path: str, said: object = None, status: int = 200, role: Role = Role.ADMIN
) -> Any:
    headers = {"Authorization": f"Bearer {TOKENS[role]}"}
    answer = await site.client.request(method, f"/api/v1{path}", json=said, headers=headers)
    assert answer.status_code == status, answer.text
    assert PASSWORD not in answer.text
    return answer.json() if answer.content else None


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _at_rest(site: Site, text: str) -> bool:
    kept = b"".join(path.read_bytes() for path in site.sample.directory.iterdir() if path.is_file())
    assert b"forge.example" in kept
    return text.encode() in kept


# --- scale sets ---


async def test_a_scale_set_is_made_changed_and_removed(site: Site) -> None:
    path = f"/repositories/{site.sample.entity_id}"
    made = await _call(site, "POST", f"{path}/scalesets", SCALE_SET)
    defaults = {
        "id": 1,
        "scale_set_id": 0,
        "state": "pending_create",
        "enabled": False,
        "max_runners": 5,
        "runner_prefix": "garm",
        "runner_bootstrap_timeout": 20,
        "desired_runner_count": 0,
        "tags": [{"id": "gpu", "name": "gpu"}],
        "repo_name": "Octo/Widgets",
        "instances": [],
        "generation": 0,
    }
    assert {key: made[key] for key in defaults} == defaults
    await _call(site, "POST", f"{path}/scalesets", SCALE_SET, 409)
    other = await _call(site, "POST", f"{path}/scalesets", SCALE_SET | {"name": "two", "labels": ["x", "y"]})
    assert (other["id"], [tag["name"] for tag in other["tags"]]) == (2, ["x", "y"])
    changed = await _call(site, "PUT", "/scalesets/1", {"enabled": True, "max_runners": 7, "disable_update": True})
    assert changed == made | {"enabled": True, "max_runners": 7, "disable_update": True}
    assert (await _call(site, "PUT", "/scalesets/1", {"image": "ami-2"}))["generation"] == 1
    assert (await _call(site, "PUT", "/scalesets/1", {"runner_group": "special"}))["github-runner-group"] == "special"
    for listed in ("/scalesets", f"{path}/scalesets"):
        assert [one["name"] for one in await _call(site, "GET", listed)] == ["gpu", "two"]
    assert await _call(site, "GET", "/scalesets/1/instances?outdatedOnly=true") == []
    await _call(site, "DELETE", f"/pools/{site.sample.pool.id}")
    assert "has scale sets: gpu, two" in (await _call(site, "DELETE", path, status=400))["details"]
    assert "disable it first" in (await _call(site, "DELETE", "/scalesets/1", status=400))["details"]
    await _call(site, "PUT", "/scalesets/1", {"enabled": False})
    for _ in range(2):  # the second time it is gone
        await _call(site, "DELETE", "/scalesets/1")
    for number in (1, 0, 2**80):
        for method, said in (("GET", None), ("PUT", {})):
            await _call(site, method, f"/scalesets/{number}", said, 404)
        await _call(site, "GET", f"/scalesets/{number}/instances", status=404)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"name": ""}, "name: "),
        ({"image": ""}, "image: must not be empty"),
        ({"provider_name": "libvirt"}, "there is no flavor 'm9.huge'"),
        ({"min_idle_runners": 9}, "min_idle_runners"),
        ({"labels": [""]}, "labels: none may be empty"),
        ({"scale_set_id": 7}, "scale_set_id: "),
        ({"template_id": 7}, "template_id: there is no template '7'"),
        ({"template_id": 2}, "template_id: 'github_windows' is not for runners of github on linux"),
        ({"proxy_id": 7}, "proxy_id: there is no proxy '7'"),
        ({"runner_bootstrap_timeout": 0}, "runner_bootstrap_timeout: cannot be 0"),
    ],
)
async def test_a_scale_set_that_cannot_be_is_refused(site: Site, said: dict[str, object], reason: str) -> None:
    path = f"/repositories/{site.sample.entity_id}/scalesets"
    assert reason in (await _call(site, "POST", path, SCALE_SET | said, 400))["details"]
    assert await _call(site, "GET", "/scalesets") == []


async def test_a_scale_sets_state_is_not_for_clients_to_say(site: Site) -> None:
    await _call(site, "POST", f"/repositories/{site.sample.entity_id}/scalesets", SCALE_SET)
    assert "state: " in (await _call(site, "PUT", "/scalesets/1", {"state": "created"}, 400))["details"]


async def test_no_gitea_has_scale_sets(site: Site) -> None:
    document = f"""
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
endpoint = "tea"
name = "acme"
credentials = "brew"
webhook_secret = "{WEBHOOK_SECRET}"
"""
    await site.sample.apply(document)
    path = f"/organizations/{await site.sample.entity_of('acme')}/scalesets"
    assert "scale sets are github only" in (await _call(site, "POST", path, SCALE_SET, 400))["details"]
    await _call(site, "GET", "/organizations/nowhere/scalesets", status=404)


# --- templates ---


async def test_what_comes_with_hostler_is_read_only(site: Site) -> None:
    (mine, *_) = await _call(site, "GET", "/templates")
    assert (mine["owner_id"], mine["name"], "data" in mine) == ("system", "github_linux", False)
    path = f"/templates/{mine['id']}"
    assert base64.b64decode((await _call(site, "GET", path))["data"]).startswith(b"#!/bin/sh")
    assert "comes with Hostler" in (await _call(site, "PUT", path, {"name": "x"}, 400))["details"]
    assert "comes with Hostler" in (await _call(site, "DELETE", path, status=400))["details"]
    said = {"name": "github_linux", "data": _b64(SCRIPT), "os_type": "linux", "forge_type": "github"}
    assert "comes with Hostler" in (await _call(site, "POST", "/templates", said, 409))["details"]
    await _call(site, "POST", "/templates/restore", {"restore_all": True})
    await _call(site, "POST", "/templates/restore", {"forge": "github", "os_type": "linux"})
    await _call(site, "POST", "/templates/restore", {}, 400)


async def test_a_template_is_made_changed_and_removed_and_is_kept_sealed(site: Site) -> None:
    said = {"name": "mine", "data": _b64(SCRIPT), "os_type": "linux", "forge_type": "gitea", "description": "d"}
    made = await _call(site, "POST", "/templates", said)
    assert made["id"] > 1000
    assert {key: made[key] for key in said} == said
    path = f"/templates/{made['id']}"
    changed = await _call(site, "PUT", path, {"name": "ours", "description": ""})
    assert changed == made | {"name": "ours", "description": ""}
    assert (await _call(site, "GET", path, role=Role.OPERATOR)) == changed
    await _call(site, "GET", path, status=403, role=Role.VIEWER)
    mine = {one["name"] for one in await _call(site, "GET", "/templates?forgeType=gitea&partialName=OUR&osType=")}
    assert mine == {"ours"}
    assert await _call(site, "GET", "/templates?partialName=OUR&osType=windows") == []
    assert not _at_rest(site, "planted-in-a-script")
    assert "planted-in-a-script" not in str(await _call(site, "GET", "/audit"))
    await _call(site, "DELETE", path)
    for method, body in (("GET", None), ("PUT", {}), ("DELETE", None)):
        for number in (made["id"], 2**80):
            await _call(site, method, f"/templates/{number}", body, 404)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"name": ""}, "name: "),
        ({"data": ""}, "data: must not be empty"),
        ({"data": "?"}, "data: must be text in base64"),
        ({"data": _b64("{{ runner_name")}, "line 1"),
        ({"data": _b64("echo {{ .RunnerName }}")}, "line 1"),
        ({"data": _b64("#!/bin/sh\necho {{ secrets }}\n")}, "the template uses secrets, which it is not given"),
        ({"data": _b64("#!/bin/sh\nif\n")}, "bash cannot read the script"),
        ({"os_type": ""}, "os_type, forge_type: both are needed"),
        ({"forge_type": "gitlab"}, "forge_type"),
    ],
)
async def test_a_template_that_cannot_be_is_refused(site: Site, said: dict[str, object], reason: str) -> None:
    good = {"name": "mine", "data": _b64(SCRIPT), "os_type": "linux", "forge_type": "github"}
    assert reason in (await _call(site, "POST", "/templates", good | said, 400))["details"]


# --- proxies ---


async def test_a_proxy_is_made_changed_and_removed_and_its_password_is_kept_sealed(site: Site) -> None:
    made = await _call(site, "POST", "/proxies", PROXY)
    assert (made["id"], made["username"], made["https_proxy"]) == (1, "u", "")
    assert not _at_rest(site, PASSWORD)
    changed = await _call(site, "PUT", "/proxies/1", {"no_proxy": "localhost,.example", "username": "", "password": ""})
    assert changed == made | {"no_proxy": "localhost,.example", "username": ""}
    assert await _call(site, "GET", "/proxies") == [changed]
    assert await _call(site, "GET", "/proxies/1") == changed
    (entry, *_) = await _call(site, "GET", "/audit")
    assert (entry["target"], entry["after"]["password"]) == ("proxy corner", "***")
    await _call(site, "POST", "/proxies", PROXY, 409)
    await _call(site, "DELETE", "/proxies/1")
    for method, body in (("GET", None), ("PUT", {}), ("DELETE", None)):
        for number in (1, 2**80):
            await _call(site, method, f"/proxies/{number}", body, 404)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"name": ""}, "name: "),
        ({"http_proxy": ""}, "one of them is needed"),
        ({"http_proxy": "nonsense"}, "http_proxy: "),
        ({"no_proxy": "a\nb"}, "no_proxy: must be a line"),
    ],
)
async def test_a_proxy_that_cannot_be_is_refused(site: Site, said: dict[str, object], reason: str) -> None:
    assert reason in (await _call(site, "POST", "/proxies", PROXY | said, 400))["details"]


# --- how long new jobs wait ---


async def test_new_jobs_wait_as_long_as_the_controller_is_told(site: Site) -> None:
    assert (await site.sample.queue(1)).retry_at is None
    told = await _call(site, "PUT", "/controller", {"minimum_job_age_backoff": 30})
    assert told["minimum_job_age_backoff"] == 30
    job = await site.sample.queue(2)
    assert job.retry_at == job.queued_at + timedelta(seconds=30)
    ended = await site.store.ledger.record(site.sample.event(JobStatus.COMPLETED, 3))
    assert ended.retry_at is None
    assert (await site.sample.queue(1)).retry_at is None  # it was there before
    await _call(site, "PUT", "/controller", {"metadata_url": ""})
    assert (await _call(site, "GET", "/controller-info"))["minimum_job_age_backoff"] == 30
    await _call(site, "PUT", "/controller", {"minimum_job_age_backoff": 0})
    assert (await site.sample.queue(4)).retry_at is None
