"""What clients that know GARM are told of the fleet."""

import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.accounts.roles import Role
from coordinator.domain.job import JobStatus
from hostler import tickets
from hostler.tickets import Kind
from tests.samples.http import PUBLIC_URL, Site, open_site
from tests.samples.store import FORGE_TOKEN, TWIN, WEBHOOK_SECRET

TOKEN = tickets.ticket(Kind.ADMIN, b"0123456789abcdef")
NOBODY = "00000000-0000-4000-8000-00000000dead"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        end = opened.sample.clock().replace(year=2999)
        await opened.store.admin_tokens.keep("look", tickets.digest(TOKEN), end, Role.VIEWER)
        yield opened


async def _get(site: Site, path: str, status: int = 200) -> Any:
    for slash in ("/", ""):
        answer = await site.client.get(f"/api/v1{path}{slash}", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == status, answer.text
    assert FORGE_TOKEN not in answer.text
    assert WEBHOOK_SECRET not in answer.text
    return answer.json()


async def test_the_controller_says_where_it_is_called(site: Site) -> None:
    told = await _get(site, "/controller-info")
    assert told["controller_id"] == site.store.controller_id
    assert told["webhook_url"] == f"{PUBLIC_URL}/webhooks"
    assert told["controller_webhook_url"] == f"{PUBLIC_URL}/webhooks/{site.store.controller_id}"
    assert told["metadata_url"] == site.where.metadata
    assert told["minimum_job_age_backoff"] == 0


async def test_providers_are_the_clouds_and_what_hosts_have(site: Site) -> None:
    told = await _get(site, "/providers")
    assert [(one["name"], one["type"]) for one in told] == [("cloud", "external"), ("libvirt", "internal")]


async def test_who_may_only_look_sees_no_secret_of_extra_specs(site: Site) -> None:
    specs = (
        '{ zone = "b", admin_password = "hunter2", runner_install_template = "IyEvYmluL3No", list = [{ token = "t" }] }'
    )
    await site.sample.apply(
        '[[pool]]\nname = "far"\nendpoint = "forge"\nrepository = "Octo/Widgets"\nprovider = "cloud"\n'
        f'image = "ami-1"\nflavor = "m9.huge"\nlabels = ["gpu"]\nextra_specs = {specs}\n'
    )
    seen = {one["name"]: one["extra_specs"] for one in await _get(site, "/pools")}["far"]
    hidden = {"admin_password": "***", "runner_install_template": "***", "list": [{"token": "***"}]}
    assert seen == {"zone": "b"} | hidden
    end = site.sample.clock().replace(year=2999)
    operator = tickets.ticket(Kind.ADMIN, b"the operator's..")
    await site.store.admin_tokens.keep("run", tickets.digest(operator), end, Role.OPERATOR)
    answer = await site.client.get("/api/v1/pools", headers={"Authorization": f"Bearer {operator}"})
    whole = {one["name"]: one["extra_specs"] for one in answer.json()}["far"]
    assert (whole["admin_password"], whole["runner_install_template"]) == ("hunter2", "IyEvYmluL3No")


async def test_what_is_declared_is_told_with_all_that_belongs_to_it(site: Site) -> None:
    machine = await site.sample.instance()
    await site.sample.apply(TWIN)
    (endpoint,) = await _get(site, "/github/endpoints")
    assert endpoint == await _get(site, "/github/endpoints/forge")
    assert (endpoint["base_url"], endpoint["endpoint_type"]) == ("https://forge.example", "github")
    repositories = {one["name"]: one for one in await _get(site, "/repositories")}
    assert set(repositories) == {"Widgets", "twin"}
    mine = repositories["Widgets"]
    assert mine == await _get(site, f"/repositories/{mine['id']}")
    assert (mine["owner"], mine["credentials_name"], mine["endpoint"]) == ("Octo", "token", endpoint)
    (pool,) = await _get(site, "/pools")
    assert [pool] == mine["pool"] == await _get(site, f"/repositories/{mine['id']}/pools")
    assert pool == await _get(site, f"/pools/{pool['id']}")
    assert pool == await _get(site, f"/repositories/{mine['id']}/pools/{pool['id']}")
    assert (pool["max_runners"], pool["runner_bootstrap_timeout"], pool["github-runner-group"]) == (3, 20, "")
    assert [tag["name"] for tag in pool["tags"]] == ["linux", "self-hosted"]
    assert pool["extra_specs"] == {}
    instances = await _get(site, "/instances")
    assert [one["name"] for one in instances] == [machine.name]
    assert instances == pool["instances"] == await _get(site, f"/pools/{pool['id']}/instances")
    assert instances == await _get(site, f"/repositories/{mine['id']}/instances")
    twin = repositories["twin"]["id"]
    assert await _get(site, f"/repositories/{twin}/instances") == await _get(site, f"/repositories/{twin}/pools") == []
    await _get(site, f"/repositories/{twin}/pools/{pool['id']}", 404)


async def test_an_instance_is_told_with_its_way_and_its_fault(site: Site) -> None:
    machine = await site.sample.instance()
    told = await _get(site, f"/instances/{machine.name}")
    assert (told["id"], told["status"], told["runner_status"]) == (machine.id, "pending_create", "pending")
    assert (told["os_type"], told["os_arch"], told["host"]) == ("linux", "amd64", "host-1")
    assert "provider_fault" not in told
    assert told["status_messages"]
    assert {"created_at", "message", "event_type", "event_level"} == set(told["status_messages"][0])
    assert (told["os_name"], told["os_version"]) == ("", "")
    await site.store.instances.system_info(machine.id, "debian", "12")
    (listed,) = await _get(site, "/instances")
    for one in (listed, await _get(site, f"/instances/{machine.name}")):
        assert (one["os_name"], one["os_version"]) == ("debian", "12")
    await site.store.instances.retire(machine.id, "no disk left", failed=True)
    told = await _get(site, f"/instances/{machine.name}")
    assert told["status"] == "pending_delete"
    assert base64.b64decode(told["provider_fault"]) == b"no disk left"


async def test_jobs_are_those_that_wait_or_run(site: Site) -> None:
    await site.sample.queue(7)
    await site.store.ledger.record(site.sample.event(JobStatus.COMPLETED, 8, conclusion="success"))
    (job,) = await _get(site, "/jobs")
    assert (job["id"], job["workflow_job_id"], job["status"], job["labels"]) == (7, 7, "queued", ["linux"])
    assert (job["repository_owner"], job["repository_name"]) == ("Octo", "Widgets")
    assert "completed_at" not in job


@pytest.mark.parametrize(
    "path",
    [
        "/github/endpoints/nowhere",
        f"/repositories/{NOBODY}",
        f"/repositories/{NOBODY}/pools",
        f"/repositories/{NOBODY}/instances",
        f"/pools/{NOBODY}",
        f"/pools/{NOBODY}/instances",
        "/instances/nobody",
    ],
)
async def test_what_is_not_there_is_not_found(site: Site, path: str) -> None:
    told = await _get(site, path, 404)
    assert told["error"] == "Not Found"
    assert "there is no" in told["details"]


async def test_nobody_is_told_anything_without_a_token(site: Site) -> None:
    document = (await site.client.get("/api/v1/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method in operations:
            if path in ("/api/v1/first-run", "/api/v1/auth/login"):
                continue
            answer = await site.client.request(method, re.sub(r"\{\w+\}", "1", path), json={})
            assert (answer.status_code, answer.json()["error"]) == (409, "init_required"), path
