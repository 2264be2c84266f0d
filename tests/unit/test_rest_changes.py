"""What clients that know GARM declare, change and remove, and what they are refused."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import msgspec
import pytest

from coordinator.accounts.roles import Role
from coordinator.domain.changes import Phase
from coordinator.domain.instance import Instance, RunnerStatus
from coordinator.domain.job import JobStatus
from coordinator.forges.contract import ForgeUnavailable
from coordinator.store.instances import PhaseFact
from hostler import tickets
from hostler.tickets import Kind
from tests.samples.http import Site, open_site
from tests.samples.store import FORGE_TOKEN, WEBHOOK_SECRET

TOKENS = {role: tickets.ticket(Kind.ADMIN, role.value.encode().ljust(16, b"-")) for role in Role}
PAT = "ghp_another-planted-token-1618033988"
SECRET = "another-planted-secret-5772156649"
ENDPOINT = {"name": "ghes", "base_url": "https://ghes.example/", "api_base_url": "https://ghes.example/api/v3/"}
CREDENTIALS = {"name": "bot", "endpoint": "forge", "auth_type": "pat", "pat": {"oauth2_token": PAT}}
REPOSITORY = {"owner": "Octo", "name": "Gadgets", "credentials_name": "token", "webhook_secret": SECRET}
POOL = {"provider_name": "cloud", "image": "ami-1", "flavor": "m9.huge", "tags": ["gpu", "self-hosted"]}


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
    """The answer's body, which holds no secret."""
    headers = {"Authorization": f"Bearer {TOKENS[role]}"}
    content = None if said is None else msgspec.json.encode(said)
    answer = await site.client.request(method, f"/api/v1{path}", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    for secret in (FORGE_TOKEN, WEBHOOK_SECRET, PAT, SECRET):
        assert secret not in answer.text
    return answer.json() if answer.content else None


async def _audited(site: Site) -> list[tuple[str, str, str]]:
    """The newest first."""
    assert not (await site.store.audit.verify()).fault
    return [(entry.actor, entry.action, entry.target) for entry in await site.store.audit.page()]


async def _repository(site: Site) -> Any:
    (found,) = await _call(site, "GET", "/repositories")
    return found


# --- the controller ---


HERE: Final = "http://coordinator.example"


async def test_the_controller_is_called_where_somebody_says(site: Site) -> None:
    before = await _call(site, "GET", "/controller-info")
    machine = await site.sample.instance()
    urls = {"metadata_url": "https://m.example/meta/", "callback_url": "https://m.example/calls"}
    assert await _call(site, "PUT", "/controller", urls | {"webhook_url": "https://w.example/hooks"}) == before | {
        "metadata_url": "https://m.example/meta",
        "callback_url": "https://m.example/calls",
        "webhook_url": "https://w.example/hooks",
        "controller_webhook_url": f"https://w.example/hooks/{site.store.controller_id}",
    }
    told = (await site.call("GET", "/metadata/runner-metadata", machine)).json()["metadata_access"]
    assert (told["metadata_url"], told["callback_url"]) == ("https://m.example/meta", "https://m.example/calls")
    assert (await _audited(site))[0] == ("token:admin", "updated", "controller")
    # What GARM's client sends when it is initialised with the address of the API.
    api = {"metadata_url": f"{HERE}/api/v1/metadata", "callback_url": f"{HERE}/api/v1/callbacks/"}
    initialised = await _call(site, "PUT", "/controller", api | {"webhook_url": f"{HERE}/webhooks"})
    assert {initialised[name] == before[name] for name in api} == {True}
    assert initialised["webhook_url"] == f"{HERE}/webhooks"
    as_configured = dict.fromkeys([*urls, "webhook_url"], "")
    assert await _call(site, "PUT", "/controller", as_configured | {"minimum_job_age_backoff": 0}) == before
    assert await _call(site, "PUT", "/controller", {}) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metadata_url": "nonsense"}, "metadata_url"),
        ({"minimum_job_age_backoff": 90_000}, "minimum_job_age_backoff: must be 0 to"),
        ({"agent_url": "https://a.example"}, "agent_url: GARM's agent is not served"),
        ({"ca_cert_bundle": "LS0t"}, "ca_cert_bundle"),
    ],
)
async def test_what_the_controller_cannot_be_set_to_is_refused(site: Site, change: object, said: str) -> None:
    assert said in (await _call(site, "PUT", "/controller", change, 400))["details"]


# --- endpoints ---


async def test_an_endpoint_is_made_changed_and_removed(site: Site) -> None:
    made = await _call(site, "POST", "/github/endpoints/", ENDPOINT | {"ca_cert_bundle": None})
    assert (made["base_url"], made["api_base_url"]) == ("https://ghes.example", "https://ghes.example/api/v3")
    assert made["created_at"] == made["updated_at"]
    site.sample.clock.move(hours=1)
    changed = await _call(site, "PUT", "/github/endpoints/ghes", {"description": "ours"})
    assert changed == made | {"description": "ours", "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > made["updated_at"]
    assert await _call(site, "PUT", "/github/endpoints/ghes", {}) == changed
    assert await _call(site, "GET", "/github/endpoints/ghes") == changed
    for _ in range(2):  # as at GARM, the second is no error
        assert await _call(site, "DELETE", "/github/endpoints/ghes") is None
    await _call(site, "GET", "/github/endpoints/ghes", status=404)
    assert (await _audited(site))[:3] == [
        ("token:admin", "removed", "endpoint ghes"),
        ("token:admin", "updated", "endpoint ghes"),
        ("token:admin", "created", "endpoint ghes"),
    ]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"name": "forge"}, 409, "there is endpoint forge already"),
        ({"name": ""}, 400, "name: "),
        ({"base_url": "https://FORGE.example"}, 400, "is that of endpoint 'forge'"),
        ({"base_url": "nonsense"}, 400, "base_url: "),
        ({"ca_cert_bundle": "LS0t"}, 400, "ca_bundle: must be one or more certificates"),
        ({"ca_cert_bundle": "?"}, 400, "ca_cert_bundle: must be text in base64"),
        ({"base_url": 7}, 400, "base_url"),
    ],
)
async def test_an_endpoint_that_cannot_be_is_refused(site: Site, change: object, status: int, said: str) -> None:
    before = await _audited(site)
    answer = await _call(site, "POST", "/github/endpoints", ENDPOINT | dict(change), status)  # type: ignore[call-overload]
    assert said in answer["details"]
    assert await _audited(site) == before


async def test_an_endpoint_with_credentials_stays(site: Site) -> None:
    answer = await _call(site, "DELETE", "/github/endpoints/forge", status=400)
    assert answer["error"] == "Bad Request"
    assert "the endpoint 'forge' has credentials: token (remove the credentials first)" in answer["details"]
    assert await _call(site, "PUT", "/github/endpoints/nowhere", {}, 404)


# --- credentials ---


async def test_credentials_are_made_changed_and_removed_by_their_number(site: Site) -> None:
    made = await _call(site, "POST", "/github/credentials", CREDENTIALS)
    assert (made["id"], made["name"], made["auth-type"], made["forge_type"]) == (2, "bot", "pat", "github")
    assert made["repositories"] == made["organizations"] == made["enterprises"] == []
    assert (made["endpoint"]["name"], made["base_url"]) == ("forge", "https://forge.example")
    changed = await _call(site, "PUT", "/github/credentials/2/", {"name": "robot", "description": "night shift"})
    assert changed == made | {"name": "robot", "description": "night shift"}
    assert [one["id"] for one in await _call(site, "GET", "/github/credentials")] == [2, 1]
    for _ in range(2):
        await _call(site, "DELETE", "/github/credentials/2")
    await _call(site, "GET", "/github/credentials/2", status=404)
    await _call(site, "PUT", "/github/credentials/2", {}, 404)
    await _call(site, "PUT", f"/github/credentials/{2**80}", {}, 404)
    await _call(site, "DELETE", f"/github/credentials/{2**80}")


async def test_a_new_token_is_in_force_at_once_and_an_old_one_stays_when_none_is_said(site: Site) -> None:
    await _call(site, "PUT", "/github/credentials/1", {"description": "x"})
    assert (await site.store.catalog.forge_access(site.sample.entity_id)).token == FORGE_TOKEN
    await _call(site, "PUT", "/github/credentials/1", {"pat": {"oauth2_token": PAT}})
    assert (await site.store.catalog.forge_access(site.sample.entity_id)).token == PAT
    (entry, *_) = await _call(site, "GET", "/audit")
    assert (entry["target"], entry["after"]) == ("credentials token", {"token": "***"})


async def test_credentials_that_a_repository_uses_stay(site: Site) -> None:
    (mine,) = await _call(site, "GET", "/github/credentials")
    assert [one["name"] for one in mine["repositories"]] == ["Widgets"]
    answer = await _call(site, "DELETE", "/github/credentials/1", status=400)
    assert "the credentials 'token' has entities: Octo/Widgets" in answer["details"]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"name": "token"}, 409, "there is credentials token already"),
        ({"endpoint": "nowhere"}, 400, "there is no endpoint 'nowhere'"),
        ({"auth_type": "app"}, 400, "auth_type"),
        ({"pat": None}, 400, "token: must not be empty"),
    ],
)
async def test_credentials_that_cannot_be_are_refused(
    site: Site, change: dict[str, object], status: int, said: str
) -> None:
    answer = await _call(site, "POST", "/github/credentials", CREDENTIALS | change, status)
    assert said in answer["details"]


async def test_credentials_take_no_name_that_others_have(site: Site) -> None:
    await _call(site, "POST", "/github/credentials", CREDENTIALS)
    await _call(site, "PUT", "/github/credentials/2", {"name": "token"}, 409)
    assert (await _call(site, "GET", "/github/credentials/2"))["name"] == "bot"
    await _call(site, "PUT", "/github/credentials/2", {"app": {"app_id": 1}}, 400)


# --- repositories ---


async def test_a_repository_is_made_changed_and_removed(site: Site) -> None:
    made = await _call(site, "POST", "/repositories", REPOSITORY)
    assert (made["credentials_id"], made["credentials_name"], made["credentials"]["name"]) == (1, "token", "token")
    assert (made["pool_balancing_type"], made["pool"], made["endpoint"]["name"]) == ("roundrobin", [], "forge")
    path = f"/repositories/{made['id']}"
    owner = await site.store.catalog.repository("https://forge.example", "octo", "gadgets")
    assert owner is not None
    assert owner.secret == SECRET.encode()
    changed = await _call(
        site, "PUT", path, {"pool_balancer_type": "pack", "credentials_name": "", "agent_mode": False}
    )
    assert changed == made | {"pool_balancing_type": "pack"}
    for query, found in (("owner=Octo", 2), ("name=Gadgets", 1), ("endpoint=other", 0), ("owner=", 2)):
        assert len(await _call(site, "GET", f"/repositories?{query}")) == found
    await _call(site, "DELETE", f"{path}?keepWebhook=true")
    assert await site.store.catalog.repository("https://forge.example", "octo", "gadgets") is None
    await _call(site, "DELETE", path, status=404)
    await _call(site, "PUT", path, {}, 404)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"owner": "OCTO", "name": "WIDGETS"}, 409, "there is repository Octo/Widgets already"),
        ({"credentials_name": "nobody"}, 400, "there are no credentials 'nobody'"),
        ({"webhook_secret": ""}, 400, "webhook_secret: "),
        ({"owner": ""}, 400, "owner: "),
        ({"pool_balancer_type": "random"}, 400, "pool_balancer_type"),
        ({"forge_type": "gitea"}, 400, "there are no credentials 'token' of gitea"),
        ({"forge_type": "gitlab"}, 400, "forge_type"),
        ({"agent_mode": True}, 400, "agent_mode"),
    ],
)
async def test_a_repository_that_cannot_be_is_refused(
    site: Site, change: dict[str, object], status: int, said: str
) -> None:
    answer = await _call(site, "POST", "/repositories", REPOSITORY | change, status)
    assert said in answer["details"]


async def test_a_repository_with_pools_stays_and_one_without_goes_with_its_jobs(site: Site) -> None:
    await site.sample.queue()
    repository = await _repository(site)
    path = f"/repositories/{repository['id']}"
    answer = await _call(site, "DELETE", path, status=400)
    assert "the repository 'Octo/Widgets' has pools: linux" in answer["details"]
    await _call(site, "DELETE", f"{path}/pools/{repository['pool'][0]['id']}")
    site.store.feed.take()
    await _call(site, "DELETE", path)
    assert site.store.feed.take().everything  # planners read anew
    assert await site.store.history.jobs(completed=True) == []


# --- pools ---


async def test_a_pool_has_garms_defaults_and_is_changed_in_part(site: Site) -> None:
    path = f"/repositories/{(await _repository(site))['id']}/pools"
    made = await _call(site, "POST", path, POOL | {"extra_specs": None})
    defaults = {
        "enabled": False,
        "max_runners": 5,
        "min_idle_runners": 0,
        "runner_prefix": "garm",
        "runner_bootstrap_timeout": 20,
        "priority": 0,
        "os_type": "linux",
        "os_arch": "amd64",
        "github-runner-group": "",
        "extra_specs": {},
        "generation": 0,
        "repo_name": "Octo/Widgets",
    }
    assert {key: made[key] for key in defaults} == defaults
    assert [tag["name"] for tag in made["tags"]] == ["gpu", "self-hosted"]
    mine = f"{path}/{made['id']}"
    changed = await _call(site, "PUT", mine, {"max_runners": 0, "image": ""}, 400)
    assert "max_runners: must be 1" in changed["details"]
    changed = await _call(site, "PUT", f"/pools/{made['id']}", {"enabled": True, "image": "", "priority": 3})
    assert changed == made | {"enabled": True, "priority": 3}
    changed = await _call(
        site, "PUT", mine, {"image": "ami-2", "extra_specs": {"zone": "b", "token": "t"}, "tags": ["x"]}
    )
    assert (changed["image"], changed["extra_specs"]["zone"], changed["generation"]) == ("ami-2", "b", 1)
    (entry, *_) = await _call(site, "GET", "/audit")
    assert entry["before"]["image"] == "ami-1"
    assert entry["after"]["extra_specs"] == {"zone": "b", "token": "***"}
    assert (await _call(site, "GET", mine)) == changed
    await _call(site, "DELETE", mine)
    await _call(site, "DELETE", mine, status=404)
    await _call(site, "DELETE", f"/pools/{made['id']}")  # by its id alone it is no error, as at GARM
    await _call(site, "PUT", f"/pools/{made['id']}", {}, 404)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tags": []}, "labels: 1 to 100 are needed"),
        ({"image": ""}, "image: must not be empty"),
        ({"provider_name": ""}, "provider: must not be empty"),
        ({"min_idle_runners": 6}, "min_idle_runners"),
        ({"runner_bootstrap_timeout": 0}, "runner_bootstrap_timeout: cannot be 0"),
        ({"os_arch": "s390x"}, "os_arch"),
        ({"enable_shell": True}, "enable_shell: not served"),
        ({"provider_name": "libvirt"}, "there is no flavor 'm9.huge'"),
        ({"extra_specs": []}, "extra_specs"),
    ],
)
async def test_a_pool_that_cannot_be_is_refused(site: Site, change: dict[str, object], said: str) -> None:
    path = f"/repositories/{(await _repository(site))['id']}/pools"
    assert said in (await _call(site, "POST", path, POOL | change, 400))["details"]


async def test_a_pool_is_one_of_its_own_repository_alone(site: Site) -> None:
    other = await _call(site, "POST", "/repositories", REPOSITORY)
    path = f"/repositories/{other['id']}/pools/{site.sample.pool.id}"
    for method, said in (("GET", None), ("PUT", {"enabled": False}), ("DELETE", None)):
        await _call(site, method, path, said, 404)
    nowhere = "/repositories/00000000-0000-4000-8000-00000000dead/pools"
    await _call(site, "POST", nowhere, POOL, 404)


async def test_a_pool_with_runners_stays_and_one_without_goes_with_their_history(site: Site) -> None:
    machine = await site.sample.instance()
    path = f"/pools/{site.sample.pool.id}"
    answer = await _call(site, "DELETE", path, status=400)
    assert f"the pool 'linux' has runners: {machine.name}" in answer["details"]
    await site.store.instances.record_phase(PhaseFact("host-1", machine.id, Phase.DELETED, site.sample.clock()))
    await _call(site, "DELETE", path)
    await _call(site, "GET", path, status=404)
    await _call(site, "GET", f"/instances/{machine.name}", status=404)


# --- instances ---


async def test_a_runner_that_the_forge_lets_go_is_deleted(site: Site) -> None:
    machine = await site.sample.instance()
    await _call(site, "DELETE", f"/instances/{machine.name}", role=Role.OPERATOR)
    assert (await _call(site, "GET", f"/instances/{machine.name}"))["status"] == "pending_delete"
    await _call(site, "DELETE", f"/instances/{machine.name}")  # again: it is on its way
    deleted = [entry for entry in await _audited(site) if entry[1] == "deleted"]
    assert deleted == [("token:operator", "deleted", f"instance {machine.name}")]
    await _call(site, "DELETE", "/instances/nobody", status=404)


async def test_a_busy_runner_is_deleted_by_force_alone(site: Site) -> None:
    machine = await site.sample.instance()
    path = f"/instances/{machine.name}"
    site.forge_says = False
    assert "has a job" in (await _call(site, "DELETE", path, status=400))["details"]
    site.forge_says = True
    await site.store.ledger.record(site.sample.event(JobStatus.IN_PROGRESS, runner_name=machine.name))
    assert (await site.sample.now(machine)).runner_status is RunnerStatus.ACTIVE
    await _call(site, "DELETE", path, status=400)
    await _call(site, "DELETE", f"{path}?forceRemove=true")
    assert (await _call(site, "GET", path))["status"] == "pending_force_delete"


async def test_a_forge_that_cannot_be_asked_keeps_the_runner_unless_it_is_bypassed(site: Site) -> None:
    machine = await site.sample.instance()
    path = f"/instances/{machine.name}"
    site.forge_says = ForgeUnavailable("the forge is down")
    assert "the forge is down" in (await _call(site, "DELETE", path, status=502))["details"]
    assert (await _call(site, "GET", path))["status"] == "pending_create"
    await _call(site, "DELETE", f"{path}?bypassGHUnauthorized=true")
    assert (await _call(site, "GET", path))["status"] == "pending_delete"


async def test_a_runner_that_is_registered_while_the_forge_is_asked_is_asked_about_again(site: Site) -> None:
    machine = await site.sample.instance()
    dismiss = site.store.upkeep.dismiss

    async def late(instance: Instance, *, force: bool) -> bool:
        if len(site.asked) == 1:
            await site.store.instances.configure_runner(machine.id, 7, {})
        return await dismiss(instance, force=force)

    with mock.patch.object(site.store.upkeep, "dismiss", late):
        await _call(site, "DELETE", f"/instances/{machine.name}")
    assert site.asked == [0, 7]


async def test_outdated_instances_can_be_asked_for(site: Site) -> None:
    machine = await site.sample.instance()
    path = f"/pools/{site.sample.pool.id}"
    for listed in (f"{path}/instances", "/instances"):
        assert await _call(site, "GET", f"{listed}?outdatedOnly=true") == []
    await _call(site, "PUT", path, {"image": "other"})
    for listed in (f"{path}/instances", "/instances"):
        assert [one["name"] for one in await _call(site, "GET", f"{listed}?outdatedOnly=true")] == [machine.name]


# --- who may ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/controller"),
        ("POST", "/github/endpoints"),
        ("PUT", "/github/endpoints/forge"),
        ("DELETE", "/github/endpoints/forge"),
        ("POST", "/github/credentials"),
        ("PUT", "/github/credentials/1"),
        ("DELETE", "/github/credentials/1"),
        ("POST", "/repositories"),
        ("PUT", "/repositories/x"),
        ("DELETE", "/repositories/x"),
        ("POST", "/repositories/x/pools"),
        ("PUT", "/repositories/x/pools/y"),
        ("DELETE", "/repositories/x/pools/y"),
        ("PUT", "/pools/y"),
        ("DELETE", "/pools/y"),
    ],
)
async def test_what_is_declared_is_changed_by_administrators_alone(site: Site, method: str, path: str) -> None:
    said: object = {} if method != "DELETE" else None
    for role in (Role.VIEWER, Role.OPERATOR):
        assert (await _call(site, method, path, said, 403, role))["error"] == "Not Authorized"
    await _call(site, "DELETE", "/instances/x", status=403, role=Role.VIEWER)
