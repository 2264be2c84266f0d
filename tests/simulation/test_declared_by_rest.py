"""All that a job needs, declared by a client of the REST API that knows GARM, and taken away again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.simulation.farm import LABELS, REPOSITORY, SECRET, Farm, farm

ADA = {"username": "ada", "email": "ada@example.org", "password": "correct-Horse-battery-9-staple"}


@asynccontextmanager
async def _client(one: Farm) -> AsyncIterator[httpx.AsyncClient]:
    """Of the first administrator."""
    async with httpx.AsyncClient(base_url=f"{one.url}/api/v1", timeout=30) as client:
        (await client.post("/first-run", json=ADA)).raise_for_status()
        token = (await client.post("/auth/login", json=ADA)).json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


async def _said(client: httpx.AsyncClient, method: str, path: str, **body: object) -> Any:
    answer = await client.request(method, path, json=body or None)
    assert answer.status_code == 200, answer.text
    return answer.json() if answer.content else None


async def _declare(one: Farm, client: httpx.AsyncClient) -> tuple[str, str]:
    """Ids of the repository and its pool, which is not enabled."""
    forge = {"name": "forge", "base_url": one.forge.base_url, "api_base_url": one.forge.api_url}
    await _said(client, "POST", "/github/endpoints", **forge)
    await _said(client, "POST", "/github/credentials", name="bot", endpoint="forge", pat={"oauth2_token": one.token})
    owner, name = REPOSITORY.split("/")
    mine = {"owner": owner, "name": name, "credentials_name": "bot", "webhook_secret": SECRET}
    repository = (await _said(client, "POST", "/repositories", **mine))["id"]
    clouds = {"provider_name": "cloud", "image": "i", "flavor": "f", "tags": list(LABELS)}
    return repository, (await _said(client, "POST", f"/repositories/{repository}/pools", **clouds))["id"]


async def test_a_job_runs_on_what_rest_declared_and_all_of_it_goes(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one, _client(one) as client:
        repository, pool = await _declare(one, client)
        job = one.queue()
        await one.until_waiting(job, "disabled")
        await _said(client, "PUT", f"/pools/{pool}", enabled=True)
        (done,) = await one.completed(job)
        told = await _said(client, "GET", f"/instances/{done.runner_name}")
        assert (told["pool_id"], told["name"][:5]) == (pool, "garm-")
        await one.assert_nothing_left()
        for path in (
            f"/pools/{pool}",
            f"/repositories/{repository}",
            "/github/credentials/1",
            "/github/endpoints/forge",
        ):
            await _said(client, "DELETE", path)
        assert await _said(client, "GET", "/repositories") == []
        assert await one.jobs() == []
        # The same again, on the same planner.
        assert (await _declare(one, client))[1] != pool
        (again,) = await _said(client, "GET", "/pools")
        await _said(client, "PUT", f"/pools/{again['id']}", enabled=True)
        await one.completed(one.queue())
        await one.assert_nothing_left()


async def test_a_runner_with_a_job_stays_and_an_idle_one_is_replaced(tmp_path: Path) -> None:
    async with farm(tmp_path, cloud="cloud") as one, _client(one) as client:
        _, pool = await _declare(one, client)
        one.guests.may_end.clear()
        await _said(client, "PUT", f"/pools/{pool}", enabled=True)
        job = one.queue()
        await one.forge.wait_until(lambda: one.forge.job(job.id).status == "in_progress")
        busy = await one.until_instance(lambda instance: instance.runner_status == "active")
        refused = await client.delete(f"/instances/{busy.name}")
        assert refused.status_code == 400, refused.text
        assert "has a job" in refused.json()["details"]
        one.guests.may_end.set()
        await one.completed(job)
        await _said(client, "PUT", f"/pools/{pool}", min_idle_runners=1)
        idle = await one.until_instance(lambda instance: instance.runner_status == "idle")
        await _said(client, "DELETE", f"/instances/{idle.name}")
        other = await one.until_instance(lambda i: i.runner_status == "idle" and i.name != idle.name)
        with pytest.raises(AssertionError, match=f"has runners: .*{other.name}"):
            await _said(client, "DELETE", f"/pools/{pool}")
        await _said(client, "PUT", f"/pools/{pool}", min_idle_runners=0, enabled=False)
        await _said(client, "DELETE", f"/instances/{other.name}")
        await one.assert_nothing_left()
        await _said(client, "DELETE", f"/pools/{pool}")
