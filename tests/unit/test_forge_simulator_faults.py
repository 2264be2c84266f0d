"""The forge simulator when things go wrong, and how it is driven: delivery log, faults, control endpoint, restart."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.forge_simulator import ForgeSimulator, RestFault, WebhookFaults
from tests.forge_simulator.harness import REPOSITORY, SECRET, World, make_world


@pytest.fixture(params=["", "/api/v3"], ids=["github.com", "ghes"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with make_world(request.param) as world:
        yield world


async def test_a_failed_delivery_is_logged_once_and_redelivered_on_request(world: World) -> None:
    world.answer_with = 503
    world.forge.queue_job(REPOSITORY, ["linux"], "true")
    assert await world.actions() == ["queued"]  # never tried again by itself
    log = f"/hooks/{(await world.rest('GET', '/hooks')).body[0]['id']}/deliveries"
    [failed] = (await world.rest("GET", log)).body
    assert (failed["status"], failed["status_code"]) == ("Invalid HTTP Response: 503", 503)
    assert (failed["event"], failed["action"], failed["redelivery"]) == ("workflow_job", "queued", False)

    world.answer_with = 202
    assert (await world.rest("POST", f"{log}/{failed['id']}/attempts")).status == 202
    await world.actions()
    again, earlier = (await world.rest("GET", log)).body
    assert (again["status"], again["status_code"], again["redelivery"]) == ("OK", 202, True)
    assert again["guid"] == failed["guid"] == earlier["guid"]
    assert again["id"] != failed["id"]
    assert world.received[0].raw == world.received[1].raw
    page = await world.rest("GET", f"{log}?per_page=1")
    assert [d["id"] for d in page.body] == [again["id"]]
    following = await world.call("GET", page.headers["Link"].partition(">")[0].strip("<"))
    assert [d["id"] for d in following.body] == [failed["id"]]
    assert (await world.rest("GET", f"{log}/{again['id']}")).body["request"]["payload"]["action"] == "queued"
    assert (await world.rest("POST", f"{log}/1/attempts")).status == 404


async def test_making_a_hook_pings_it(world: World) -> None:
    config = {"url": world.hook.url + "?second", "secret": "s", "content_type": "json"}
    made = await world.rest("POST", "/hooks", {"name": "web", "events": ["workflow_job"], "config": config})
    assert (made.status, made.body["config"]["secret"]) == (201, "********")
    await world.forge.webhooks.settle()
    assert [received.headers["X-GitHub-Event"] for received in world.received] == ["ping"]
    assert (await world.rest("POST", "/hooks", {"name": "web", "config": config})).status == 422
    assert (await world.rest("POST", f"/hooks/{made.body['id']}/pings")).status == 204


async def test_webhook_faults(world: World) -> None:
    def queue() -> None:
        world.forge.queue_job(REPOSITORY, ["linux"], "true", name=f"job {len(world.received)}")

    world.forge.set_faults(webhooks=WebhookFaults(drop=1.0))
    queue()
    assert await world.actions() == []
    assert world.forge.deliveries(world.hook) == []

    world.forge.set_faults(webhooks=WebhookFaults(fail=1.0))
    queue()
    assert await world.actions() == []
    assert [delivery.status_code for delivery in world.forge.deliveries(world.hook)] == [502]

    world.forge.set_faults(webhooks=WebhookFaults(duplicate=1.0))
    queue()
    assert await world.actions() == ["queued", "queued"]
    assert len({received.headers["X-GitHub-Delivery"] for received in world.received}) == 1

    world.received.clear()
    world.forge.set_faults(webhooks=WebhookFaults(delay=1.0, delay_seconds=0.5), seed=1)
    started = asyncio.get_running_loop().time()
    queue()
    await world.actions()
    assert asyncio.get_running_loop().time() - started > 0.1

    world.received.clear()
    world.forge.set_faults(webhooks=WebhookFaults(reorder=1.0))
    job = world.forge.queue_job(REPOSITORY, ["linux"], "true")
    world.forge.set_faults()
    world.forge.cancel_job(job.id)
    assert await world.actions() == ["completed", "queued"]


async def test_the_same_seed_gives_the_same_fates(world: World) -> None:
    async def fates() -> list[str]:
        world.received.clear()
        world.forge.set_faults(webhooks=WebhookFaults(drop=0.5), seed=7)
        for number in range(20):
            world.forge.queue_job(REPOSITORY, ["linux"], "true", name=str(number))
        await world.actions()
        return sorted(received.body["workflow_job"]["name"] for received in world.received)

    first = await fates()
    assert 0 < len(first) < 20
    assert await fates() == first


async def test_a_receiver_that_is_slow_or_away_is_not_waited_for(world: World) -> None:
    away = world.forge.add_hook(REPOSITORY, "http://127.0.0.1:9/", SECRET)
    world.forge.queue_job(REPOSITORY, ["linux"], "true")
    await world.actions()
    [delivery] = world.forge.deliveries(away)
    assert (delivery.status, delivery.status_code) == ("failed to connect to host", 502)

    assert world.forge.webhooks.answer_within_seconds == 10
    world.forge.webhooks.answer_within_seconds = 0.1
    world.answer_after_seconds = 0.4
    world.forge.queue_job(REPOSITORY, ["linux"], "true")
    await world.actions()
    assert [(delivery.status, delivery.status_code) for delivery in world.forge.deliveries(world.hook)] == [
        ("timed out", 504),
        ("OK", 200),
    ]


async def test_rest_faults(world: World) -> None:
    for fault, status in [
        (RestFault(operation="list-runners", status=401), 401),
        (RestFault(operation="list-runners", status=403, retry_after_seconds=7), 403),
        (RestFault(operation="*", status=429, retry_after_seconds=7), 429),
        (RestFault(operation="list-runners", status=502), 502),
        (RestFault(operation="get-job", status=500), 200),
    ]:
        world.forge.set_faults(fault)
        answer = await world.rest("GET", "/actions/runners")
        assert answer.status == status
        assert answer.headers.get("Retry-After") == ("7" if fault.retry_after_seconds else None)

    world.forge.set_faults(RestFault(operation="list-runners", status=500, times=1))
    assert [(await world.rest("GET", "/actions/runners")).status for _ in range(2)] == [500, 200]

    world.forge.set_faults(RestFault(operation="generate-jitconfig", delay_seconds=0.3))
    started = asyncio.get_running_loop().time()
    assert (await world.jit("slow")).status == 201
    assert asyncio.get_running_loop().time() - started >= 0.3

    world.forge.set_faults(RestFault(operation="generate-jitconfig", hang=True, after=True))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.jit("lost"), 0.3)
    world.forge.set_faults()
    assert (await world.jit("lost")).status == 409  # it took effect all the same


async def test_the_control_endpoint_drives_jobs_and_faults(world: World) -> None:
    refused = await world.call("GET", f"{world.forge.base_url}/_control/jobs", token="guess")
    assert refused.status == 401
    body = {"repository": REPOSITORY, "labels": ["linux"], "script": "true", "name": "load", "count": 3}
    queued = await world.control("POST", "/jobs", body)
    assert (queued.status, [job["name"] for job in queued.body["jobs"]]) == (201, ["load 1", "load 2", "load 3"])
    first, second, _ = queued.body["jobs"]

    runner = await world.runner()
    assert await runner.take() == first["id"]
    waiting = asyncio.create_task(world.control("GET", f"/jobs/{first['id']}?wait_seconds=20"))
    url = f"{runner.server}/job/{first['id']}/log?offset=0"
    async with world.client.post(url, data=b"a line\n", headers={"Authorization": f"Bearer {runner.token}"}) as answer:
        assert answer.status == 200
    await runner.finish(first["id"])
    shown = (await waiting).body
    assert (shown["status"], shown["conclusion"], shown["log"]) == ("completed", "success", "a line\n")
    assert shown["created_at"] < shown["started_at"] < shown["completed_at"]

    assert (await world.control("POST", f"/jobs/{second['id']}/cancel")).body["conclusion"] == "cancelled"
    states = [job["status"] for job in (await world.control("GET", "/jobs")).body["jobs"]]
    assert states == ["completed", "completed", "queued"]
    faults = {"seed": 3, "webhooks": {"drop": 0.5}, "rest": [{"operation": "*", "status": 500}]}
    assert (await world.control("PUT", "/faults", faults)).status == 200
    assert (await world.rest("GET", "/actions/runs")).status == 500
    for wrong in ({"webhooks": {"drop": 2}}, {"rest": [{"operation": "*", "status": 200}]}, {"sed": 1}):
        assert (await world.control("PUT", "/faults", wrong)).status == 400
    unknown = await world.control("POST", "/jobs", body | {"repository": "acme/none"})
    assert (unknown.status, unknown.body["error"]) == (
        400,
        "no repository 'acme/none': add it first (known: acme/widgets)",
    )


async def test_the_log_keeps_three_days_by_the_given_clock() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    async with ForgeSimulator(clock=lambda: now) as forge:
        forge.add_repository(REPOSITORY)
        hook = forge.add_hook(REPOSITORY, "http://127.0.0.1:9/", SECRET)
        job = forge.queue_job(REPOSITORY, ["linux"], "true")
        await forge.webhooks.settle()
        assert job.created_at == now
        now += timedelta(days=3)
        assert len(forge.deliveries(hook)) == 1
        now += timedelta(seconds=1)
        assert forge.deliveries(hook) == []


class Program:
    """The simulator as a process of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.told: dict[str, Any] = {}

    async def __aenter__(self) -> "Program":
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.forge_simulator", "--state-file", str(self.state)),
            *("--repository", REPOSITORY),
            cwd=Path(__file__).parents[2],
            env={**os.environ, "FORGE_TOKEN": "the token"},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert b"REST at" in await asyncio.wait_for(self.process.stdout.readline(), 20)
        self.told = json.loads(await asyncio.to_thread(self.state.read_text))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(self.process.wait(), 10) == 0


async def test_the_program_goes_on_from_its_state_file(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with aiohttp.ClientSession() as client:
        async with Program(state) as program:
            control = {"Authorization": f"Bearer {program.told['control_token']}"}
            body = {"repository": REPOSITORY, "labels": ["linux"], "script": "true"}
            async with client.post(f"{program.told['base_url']}/_control/jobs", json=body, headers=control) as answer:
                [job] = (await answer.json())["jobs"]
        assert state.stat().st_mode & 0o777 == 0o600

        async with Program(state) as program:
            async with client.get(f"{program.told['base_url']}/_control/jobs", headers=control) as answer:
                [after] = (await answer.json())["jobs"]
            url = f"{program.told['api_url']}/repos/{REPOSITORY}/actions/jobs/{job['id']}"
            async with client.get(url, headers={"Authorization": "Bearer the token"}) as answer:
                assert (await answer.json())["status"] == "queued"
    del job["html_url"], after["html_url"]  # the port is another one
    assert job == after
