"""The forge simulator over real HTTP: its REST interface and the errors, and the way of a job with its webhooks."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.forge_simulator import SimulatorError
from tests.forge_simulator.harness import LABELS, REPOSITORY, SECRET, World, make_world


@pytest.fixture(params=["", "/api/v3"], ids=["github.com", "ghes"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with make_world(request.param) as world:
        yield world


async def test_who_may_call(world: World) -> None:
    reader = world.forge.add_token(REPOSITORY, permissions={"actions": "read"}).value
    world.forge.add_repository("acme/other")
    stranger = world.forge.add_token("acme/other").value

    for token, path, status, message in [
        ("", "/actions/runners", 401, "Requires authentication"),
        ("wrong", "/actions/runners", 401, "Bad credentials"),
        (stranger, "/actions/runners", 404, "Not Found"),
        (reader, "/actions/runners", 403, "Resource not accessible by personal access token"),
        (world.token, "/actions/nothing", 404, "Not Found"),
        (world.token, "/actions/runners/notanumber", 404, "Not Found"),
    ]:
        answer = await world.rest("GET", path, token=token)
        assert (answer.status, answer.body["message"], answer.body["status"]) == (status, message, str(status))
        assert answer.body["documentation_url"].startswith("https://docs.github.com/rest")
    assert (await world.rest("GET", "/actions/runs", token=reader)).status == 200
    assert (await world.rest("GET", "", token=reader)).body["full_name"] == REPOSITORY


async def test_a_jit_configuration_holds_the_three_files_of_a_runner(world: World) -> None:
    answer = await world.jit()
    assert answer.status == 201
    runner = answer.body["runner"]
    assert (runner["name"], runner["status"], runner["busy"]) == ("r1", "offline", False)
    assert [label["name"] for label in runner["labels"]] == LABELS
    files = json.loads(base64.b64decode(answer.body["encoded_jit_config"]))
    assert set(files) == {".runner", ".credentials", ".credentials_rsaparams"}
    settings = json.loads(base64.b64decode(files[".runner"]))
    assert settings["agentId"] == runner["id"]
    assert settings["serverUrl"] == f"{world.forge.base_url}/_runner"


@pytest.mark.parametrize(
    ("change", "status", "part"),
    [
        ({"runner_group_id": None}, 422, "runner_group_id"),
        ({"labels": None}, 422, "labels"),
        ({"labels": []}, 422, "1 to 100 labels"),
        ({"labels": [f"l{n}" for n in range(101)]}, 422, "1 to 100 labels"),
        ({"labels": "linux"}, 422, "Expected `array`"),
        ({"runner_group_id": 7}, 404, "Not Found"),
        ({"name": "taken"}, 409, "A runner with the name taken already exists"),
    ],
)
async def test_bad_jit_requests(world: World, change: dict[str, Any], status: int, part: str) -> None:
    await world.jit("taken")
    whole = {"name": "new", "runner_group_id": 1, "labels": ["linux"]} | change
    body = {key: value for key, value in whole.items() if value is not None}
    answer = await world.rest("POST", "/actions/runners/generate-jitconfig", body)
    assert answer.status == status
    assert part in answer.body["message"]
    assert [runner.name for runner in world.forge.runners(REPOSITORY)] == ["taken"]


async def test_a_body_that_is_no_json_is_400(world: World) -> None:
    url = f"{world.forge.api_url}/repos/{REPOSITORY}/actions/runners/generate-jitconfig"
    async with world.client.post(url, data=b'{"name":', headers={"Authorization": f"token {world.token}"}) as response:
        assert response.status == 400
        assert (await response.json())["message"] == "Problems parsing JSON"


async def test_runners_are_listed_in_pages_and_found_by_name(world: World) -> None:
    for number in range(5):
        await world.jit(f"r{number}")
    seen: list[str] = []
    url: str | None = f"{world.forge.api_url}/repos/{REPOSITORY}/actions/runners?per_page=2"
    while url:
        answer = await world.call("GET", url)
        assert answer.body["total_count"] == 5
        seen += [runner["name"] for runner in answer.body["runners"]]
        following = re.search(r'<([^>]*)>; rel="next"', answer.headers.get("Link", ""))
        url = following and following[1]
    assert seen == ["r0", "r1", "r2", "r3", "r4"]
    named = (await world.rest("GET", "/actions/runners?name=r3")).body
    assert (named["total_count"], named["runners"][0]["name"]) == (1, "r3")


async def test_a_runner_is_deleted_unless_it_is_busy(world: World) -> None:
    idle = (await world.jit("idle")).body["runner"]["id"]
    assert (await world.rest("GET", f"/actions/runners/{idle}")).body["name"] == "idle"
    assert (await world.rest("DELETE", f"/actions/runners/{idle}")).status == 204
    assert (await world.rest("GET", f"/actions/runners/{idle}")).status == 404
    assert (await world.rest("DELETE", f"/actions/runners/{idle}")).status == 404

    world.forge.queue_job(REPOSITORY, ["linux"], "true")
    busy = await world.runner("busy")
    await busy.take()
    answer = await world.rest("DELETE", f"/actions/runners/{busy.id}")
    assert (answer.status, answer.body["message"]) == (422, 'Bad request - Runner "busy" is still running a job')


async def test_downloads_are_real_and_tokens_last_an_hour(world: World) -> None:
    for tool in (await world.rest("GET", "/actions/runners/downloads")).body:
        tarball = await world.call("GET", tool["download_url"], token="")
        assert hashlib.sha256(tarball.raw).hexdigest() == tool["sha256_checksum"]
    answer = await world.rest("POST", "/actions/runners/registration-token")
    assert answer.status == 201
    left = datetime.fromisoformat(answer.body["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


async def test_runs_and_jobs_tell_what_is_queued(world: World) -> None:
    first = world.forge.queue_job(REPOSITORY, ["linux"], "true", name="first")
    second = world.forge.queue_job(REPOSITORY, ["gpu"], "true", name="second", run_id=first.run_id)
    assert [r["id"] for r in (await world.rest("GET", "/actions/runs?status=queued")).body["workflow_runs"]] == [
        first.run_id
    ]

    job_id = await (await world.runner()).take()
    assert job_id == first.id
    assert (await world.rest("GET", "/actions/runs?status=queued")).body["total_count"] == 0
    running = (await world.rest("GET", "/actions/runs?status=in_progress")).body["workflow_runs"]
    assert [run["id"] for run in running] == [first.run_id]
    jobs = (await world.rest("GET", f"/actions/runs/{first.run_id}/jobs")).body["jobs"]
    assert [(job["name"], job["status"]) for job in jobs] == [("first", "in_progress"), ("second", "queued")]
    assert (await world.rest("GET", f"/actions/runs/{first.run_id}/attempts/1/jobs")).body["total_count"] == 2
    assert (await world.rest("GET", f"/actions/jobs/{second.id}")).body["runner_id"] is None
    assert (await world.rest("GET", "/actions/jobs/1")).status == 404


async def test_the_rate_limit_is_told_and_kept(world: World) -> None:
    world.forge.rate_limits.limits["core"] = 2
    before = (await world.call("GET", f"{world.forge.api_url}/rate_limit")).body["resources"]
    assert (before["core"]["remaining"], before["actions_runner_registration"]["limit"]) == (2, 10_000)
    left = [(await world.rest("GET", "/actions/runs")).headers["X-RateLimit-Remaining"] for _ in range(2)]
    assert left == ["1", "0"]
    refused = await world.rest("GET", "/actions/runs")
    assert (refused.status, refused.headers["X-RateLimit-Remaining"]) == (403, "0")
    assert int(refused.headers["X-RateLimit-Reset"]) > datetime.now(UTC).timestamp()
    assert (await world.jit()).headers["X-RateLimit-Resource"] == "actions_runner_registration"


async def test_a_job_goes_its_way_with_signed_webhooks(world: World) -> None:
    job = world.forge.queue_job(REPOSITORY, ["linux"], "true", name="build")
    await world.actions()
    runner = await world.runner()
    await runner.take()
    await world.actions()
    await runner.finish(job.id)
    assert await world.actions() == ["queued", "in_progress", "completed"]
    assert world.forge.runners(REPOSITORY) == []

    for received in world.received:
        digest = hmac.new(SECRET.encode(), received.raw, hashlib.sha256).hexdigest()
        assert received.headers["X-Hub-Signature-256"] == f"sha256={digest}"
        assert received.headers["X-GitHub-Event"] == "workflow_job"
        assert received.headers["X-GitHub-Hook-ID"] == str(world.hook.id)
        assert received.headers["X-GitHub-Hook-Installation-Target-Type"] == "repository"
        assert received.headers["X-GitHub-Hook-Installation-Target-ID"] == str(received.body["repository"]["id"])
        assert received.headers["User-Agent"].startswith("GitHub-Hookshot/")
        assert b"github.com" not in received.raw
        assert b"githubusercontent" not in received.raw
        shown = received.body["workflow_job"]
        assert (shown["id"], shown["run_id"], shown["labels"]) == (job.id, job.run_id, ["linux"])
        assert shown["html_url"].startswith(f"{world.forge.base_url}/{REPOSITORY}/actions/runs/")
        assert shown["url"] == f"{world.forge.api_url}/repos/{REPOSITORY}/actions/jobs/{job.id}"
        assert received.body["repository"]["full_name"] == REPOSITORY
        assert received.body["repository"]["owner"]["login"] == "acme"
    queued, running, done = (received.body["workflow_job"] for received in world.received)
    ran = ("runner_id", "runner_name", "runner_group_id", "runner_group_name")
    assert [queued[field] for field in ran] == [None] * 4
    assert (queued["status"], queued["steps"], queued["conclusion"], queued["completed_at"]) == (
        "queued",
        [],
        None,
        None,
    )
    assert [running[field] for field in ran] == [runner.id, "r1", 1, "Default"] == [done[field] for field in ran]
    assert (running["status"], running["conclusion"], running["completed_at"]) == ("in_progress", None, None)
    assert (done["status"], done["conclusion"]) == ("completed", "success")
    assert len({received.headers["X-GitHub-Delivery"] for received in world.received}) == 3


async def test_a_gated_job_waits_and_a_ping_says_hello(world: World) -> None:
    world.forge.ping(world.hook)
    await world.forge.webhooks.settle()
    [hello] = world.received
    assert (hello.headers["X-GitHub-Event"], hello.body["hook_id"]) == ("ping", world.hook.id)
    assert b"github.com" not in hello.raw
    world.received.clear()

    job = world.forge.queue_job(REPOSITORY, ["linux"], "true", waiting=True)
    runner = await world.runner()
    assert (await runner.call("GET", "/job")).status == 204
    world.forge.release_job(job.id)
    assert await runner.take() == job.id
    assert await world.actions() == ["waiting", "queued", "in_progress"]
    with pytest.raises(SimulatorError, match="only a waiting job"):
        world.forge.release_job(job.id)


async def test_a_queued_job_that_is_cancelled_had_no_runner(world: World) -> None:
    job = world.forge.queue_job(REPOSITORY, ["linux"], "true")
    await world.actions()
    world.forge.cancel_job(job.id)
    assert await world.actions() == ["queued", "completed"]
    shown = world.received[-1].body["workflow_job"]
    assert (shown["conclusion"], shown["runner_id"], shown["steps"]) == ("cancelled", None, [])
    assert (await (await world.runner()).call("GET", "/job")).status == 204


async def test_the_oldest_job_whose_labels_fit_is_taken(world: World) -> None:
    world.forge.queue_job(REPOSITORY, ["linux", "gpu"], "true")
    older = world.forge.queue_job(REPOSITORY, ["LINUX", "X64"], "true")
    newer = world.forge.queue_job(REPOSITORY, ["linux"], "true")
    first, second = await world.runner("first"), await world.runner("second")
    assert [await first.take(), await second.take()] == [older.id, newer.id]
    with pytest.raises(SimulatorError, match="at least one label"):
        world.forge.queue_job(REPOSITORY, [], "true")


async def test_a_runner_takes_one_job_only_and_only_its_own(world: World) -> None:
    mine = world.forge.queue_job(REPOSITORY, ["linux"], "true")
    other = world.forge.queue_job(REPOSITORY, ["linux"], "true")
    runner = await world.runner()
    assert [await runner.take(), await runner.take()] == [mine.id, mine.id]
    assert (await runner.call("POST", f"/job/{other.id}/complete?result=success")).status == 404
    assert (await runner.call("POST", f"/job/{mine.id}/complete?result=splendid")).status == 400
    assert (await runner.call("POST", f"/job/{mine.id}/log?offset=9")).status == 400
    await runner.finish(mine.id, "failure")
    assert (await runner.call("GET", "/job")).status == 401
    assert (world.forge.job(mine.id).conclusion, world.forge.job(other.id).status) == ("failure", "queued")


async def test_a_poll_that_was_given_up_takes_no_job(world: World) -> None:
    runner = await world.runner()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runner.call("GET", "/job"), 0.2)
    await world.rest("GET", "/actions/runners")  # the server has seen the closed connection by now
    job = world.forge.queue_job(REPOSITORY, ["linux"], "true")
    assert world.forge.job(job.id).status == "queued"
    assert await runner.take() == job.id


async def test_a_runner_that_falls_silent_is_lost(world: World) -> None:
    idle = await world.runner("idle", ["other"])
    job = world.forge.queue_job(REPOSITORY, ["linux"], "true")
    await (await world.runner("gone")).take()
    assert (await world.forge.wait_completed(job.id, timeout_seconds=5)).conclusion == "failure"
    await world.forge.wait_until(lambda: not any(r.online for r in world.forge.runners(REPOSITORY)))
    assert (await world.rest("GET", f"/actions/runners/{idle.id}")).body["status"] == "offline"
    assert (await world.rest("GET", "/actions/runners")).body["total_count"] == 1
