"""The GitHub client against the forge simulator, at an address like api.github.com's and at one like a GHES's."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

import aiohttp
import pytest
from aiohttp import web

from coordinator.domain.fleet import Endpoint, Entity, EntityKind, ForgeKind
from coordinator.forges.contract import (
    ForgeError,
    ForgeRefused,
    ForgeRunner,
    ForgeUnavailable,
    RunnerBusy,
    RunnerConfiguration,
    RunnerExists,
)
from coordinator.forges.forges import Forges
from coordinator.forges.github import PERMISSIONS, GitHub
from coordinator.forges.kept import Answer, KeptAnswers
from coordinator.store.catalog import ForgeAccess
from tests.forge_simulator.faults import RestFault
from tests.forge_simulator.harness import REPOSITORY, World, make_world
from tests.forge_simulator.records import ASKED_FOR
from tests.samples.store import Clock

ROOT = Path(__file__).parents[2]
LABELS = frozenset({"self-hosted", "linux"})
TOKEN = "ghp_planted-token-of-the-client-299792458"
Call = Callable[[GitHub], Awaitable[object]]
CALLS: dict[str, Call] = {
    "configure": lambda github: github.configure_runner("r1", LABELS, ""),
    "find": lambda github: github.runner_named("r1"),
    "list": lambda github: github.runners(),
    "job": lambda github: github.job(4242),
    "runs": lambda github: github.open_runs(),
    "remove": lambda github: github.remove_runner(4242),
    "tools": lambda github: github.tools(),
    "hooks": lambda github: github.webhooks(),
    "hook": lambda github: github.install_webhook("https://us.example/webhooks", "secret", insecure_ssl=False),
    "unhook": lambda github: github.remove_webhook(4242),
}


def client(session: aiohttp.ClientSession, api_url: str, token: str = TOKEN, repository: str = REPOSITORY) -> GitHub:
    owner, _, name = repository.partition("/")
    endpoint = Endpoint("endpoint-1", "forge", ForgeKind.GITHUB, "https://forge.example", api_url)
    entity = Entity("entity-1", endpoint.id, EntityKind.REPOSITORY, owner, name, "credentials-1")
    return GitHub(session, ForgeAccess(endpoint, entity, token), asyncio.Semaphore(50), KeptAnswers())


@pytest.fixture(params=["", "/api/v3"], ids=["github.com", "ghes"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with make_world(request.param) as made:
        made.forge.add_token(REPOSITORY, value=TOKEN)
        yield made


@pytest.fixture
def github(world: World) -> GitHub:
    return client(world.client, world.forge.api_url)


def _said(error: BaseException) -> str:
    """Everything that a log could show of an error: its text, its repr and its causes."""
    return "".join(traceback.format_exception(error)) + repr(error)


async def test_a_runner_is_configured_found_and_removed(world: World, github: GitHub) -> None:
    configuration = await github.configure_runner("hostler-1", LABELS, "")
    assert set(configuration.files) == {".runner", ".credentials", ".credentials_rsaparams"}
    assert configuration.files[".runner"].startswith(b"{")
    registered = world.forge.runners(REPOSITORY)[0]
    assert (registered.id, registered.name) == (configuration.runner_id, "hostler-1")
    assert set(registered.labels) == LABELS

    assert await github.runner_named("hostler-1") == ForgeRunner(configuration.runner_id, "hostler-1", "offline", False)
    assert await github.runner_named("hostler-2") is None
    await github.remove_runner(configuration.runner_id)
    assert world.forge.runners(REPOSITORY) == []
    await github.remove_runner(configuration.runner_id)  # gone already: fine


async def test_a_name_that_is_taken_is_said_as_such(github: GitHub) -> None:
    await github.configure_runner("hostler-1", LABELS, "")
    with pytest.raises(RunnerExists, match="there is a runner hostler-1 already"):
        await github.configure_runner("hostler-1", LABELS, "")


async def test_a_runner_with_a_job_is_kept(world: World, github: GitHub) -> None:
    world.forge.queue_job(REPOSITORY, ["linux"], "true")
    busy = await world.runner("busy")
    await busy.take()
    with pytest.raises(RunnerBusy, match=f"runner {busy.id} has a job"):
        await github.remove_runner(busy.id)
    found = await github.runner_named("busy")
    assert found is not None
    assert found.busy


async def test_the_runner_program_is_offered_with_checksums(github: GitHub) -> None:
    tools = await github.tools()
    assert {(tool.os, tool.architecture) for tool in tools} >= {("linux", "x64"), ("linux", "arm64")}
    assert all(tool.download_url and len(tool.sha256_checksum) == 64 for tool in tools)


async def test_a_repository_has_no_runner_groups(github: GitHub) -> None:
    with pytest.raises(ForgeRefused, match="leave runner_group empty"):
        await github.configure_runner("r1", LABELS, "builders")


@pytest.mark.parametrize("call", CALLS)
async def test_a_wrong_token_is_refused_with_a_hint(world: World, call: str) -> None:
    wrong = "ghp_a-wrong-planted-token"
    with pytest.raises(ForgeRefused, match=r"HTTP 401 .*renew it and apply it again") as caught:
        await CALLS[call](client(world.client, world.forge.api_url, wrong))
    assert wrong not in _said(caught.value)


async def test_a_token_that_may_only_read_is_refused_with_a_hint(world: World) -> None:
    reader = world.forge.add_token(REPOSITORY, permissions={"actions": "read"}).value
    with pytest.raises(
        ForgeRefused, match=r"HTTP 403 .*'Administration: read and write' and 'Actions: read'"
    ) as caught:
        await client(world.client, world.forge.api_url, reader).configure_runner("r1", LABELS, "")
    assert reader not in _said(caught.value)


@pytest.mark.parametrize("call", ["hooks", "hook", "unhook"])
async def test_a_token_for_runners_alone_is_refused_webhooks_with_a_hint(world: World, call: str) -> None:
    token = world.forge.add_token(REPOSITORY, permissions=ASKED_FOR).value
    with pytest.raises(ForgeRefused, match=r"HTTP 403 .*'Webhooks: read and write'"):
        await CALLS[call](client(world.client, world.forge.api_url, token))


@pytest.mark.parametrize("call", [call for call in CALLS if "hook" not in call])
async def test_what_readme_asks_a_token_to_have_is_enough_for_every_call(world: World, call: str) -> None:
    token = world.forge.add_token(REPOSITORY, permissions=ASKED_FOR).value
    await CALLS[call](client(world.client, world.forge.api_url, token))


def test_wherever_a_token_is_asked_for_the_same_is_said() -> None:
    """The forge simulator holds the demo and the simulations to ASKED_FOR."""
    levels = {"read": "read", "write": "read and write"}
    named = [f"{area.capitalize()}: {levels[level]}" for area, level in ASKED_FOR.items()]
    for said in ((ROOT / "README.md").read_text(), (ROOT / "tests/demo/__main__.py").read_text(), PERMISSIONS):
        assert [one for one in named if one not in said] == []


@pytest.mark.parametrize("call", ["configure", "find", "list", "tools"])
async def test_a_repository_that_is_not_there_is_refused_with_a_hint(world: World, call: str) -> None:
    with pytest.raises(ForgeRefused, match=r"acme/gone.*HTTP 404 .*check owner, name and api_base_url"):
        await CALLS[call](client(world.client, world.forge.api_url, repository="acme/gone"))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [403, 429, 500, 502, 503])
async def test_a_limit_or_a_broken_forge_may_go_well_later(
    world: World, github: GitHub, call: str, status: int
) -> None:
    world.forge.set_faults(RestFault(operation="*", status=status))
    with pytest.raises(ForgeUnavailable) as caught:
        await CALLS[call](github)
    assert ("rate limit" if status < 500 else f"HTTP {status}") in str(caught.value)
    assert TOKEN not in _said(caught.value)
    world.forge.set_faults()
    await CALLS[call](github)


async def test_a_used_up_rate_may_go_well_when_the_forge_says(world: World, github: GitHub) -> None:
    world.forge.rate_limits.limits["core"] = 0
    with pytest.raises(ForgeUnavailable, match="rate limit reached") as caught:
        await github.runner_named("r1")
    assert caught.value.retry_after is not None
    assert timedelta(minutes=59) < caught.value.retry_after <= timedelta(hours=1)


@pytest.mark.parametrize(("status", "told"), [(403, 60), (429, 60), (503, None)])
async def test_how_long_a_forge_wants_to_be_left_alone_is_told(
    world: World, github: GitHub, status: int, told: int | None
) -> None:
    world.forge.set_faults(RestFault(operation="*", status=status, retry_after_seconds=17))
    with pytest.raises(ForgeUnavailable) as caught:
        await github.runners()
    assert caught.value.retry_after == timedelta(seconds=17)
    world.forge.set_faults(RestFault(operation="*", status=status))
    with pytest.raises(ForgeUnavailable) as caught:
        await github.runners()
    assert caught.value.retry_after == (None if told is None else timedelta(seconds=told))


@pytest.mark.parametrize("count", [0, 1, 100, 101, 250])
async def test_all_runners_are_listed_however_many(github: GitHub, count: int) -> None:
    made = [(await github.configure_runner(f"r{number}", LABELS, "")).runner_id for number in range(count)]
    assert [runner.id for runner in await github.runners()] == made


async def test_a_list_that_shrinks_while_it_is_read_is_none(world: World, github: GitHub) -> None:
    made = [(await github.configure_runner(f"r{number}", LABELS, "")).runner_id for number in range(150)]

    class Shrinking(asyncio.Semaphore):
        async def acquire(self) -> Literal[True]:
            calls.append(1)
            if len(calls) == 2:
                world.forge._forge.remove_runner(made[0])  # moves the first of the second page into the gap
            return await super().acquire()

    calls: list[int] = []
    github._slots = Shrinking(1)
    with pytest.raises(ForgeUnavailable, match="the list changed meanwhile"):
        await github.runners()
    assert len(await github.runners()) == 149


async def _serve(answer: Callable[[web.Request], Awaitable[web.Response]]) -> tuple[web.AppRunner, str]:
    server = web.Application()
    server.router.add_route("*", "/{path:.*}", answer)
    serving = web.AppRunner(server, access_log=None)
    await serving.setup()
    await web.TCPSite(serving, "127.0.0.1", 0).start()
    return serving, f"http://127.0.0.1:{serving.addresses[0][1]}"


async def test_links_to_another_host_are_followed_at_the_forge_s_own_address() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        page = int(request.query.get("page", "1"))
        link = f'<http://stranger.invalid{request.path}?per_page=100&page={page + 1}>; rel="next"'
        runner = {"id": page, "name": f"r{page}", "status": "online", "busy": False}
        headers = {"Link": link} if page < 3 else {}
        return web.json_response({"total_count": 3, "runners": [runner]}, headers=headers)

    serving, url = await _serve(answer)
    try:
        async with aiohttp.ClientSession() as session:
            assert [runner.id for runner in await client(session, url).runners()] == [1, 2, 3]
    finally:
        await serving.cleanup()
    path = f"/repos/{REPOSITORY}/actions/runners?per_page=100"
    assert asked == [path, f"{path}&page=2", f"{path}&page=3"]


async def test_links_in_a_circle_end() -> None:
    async def answer(request: web.Request) -> web.Response:
        link = f'<{request.path_qs}>; rel="next"'
        return web.json_response({"total_count": 0, "runners": []}, headers={"Link": link})

    serving, url = await _serve(answer)
    try:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(ForgeUnavailable, match="listed 0 runners of 0"):
                await client(session, url).runners()
    finally:
        await serving.cleanup()


async def test_a_job_is_told_with_its_end(world: World, github: GitHub) -> None:
    job = world.forge.queue_job(REPOSITORY, ["linux"], "true")
    runner = await world.runner("r1")
    assert await runner.take() == job.id
    told = await github.job(job.id)
    await runner.finish(job.id)
    ended = await github.job(job.id)
    assert ended is not None
    assert told is not None
    assert [(one.status, one.conclusion, one.runner_name) for one in (told, ended)] == [
        ("in_progress", None, "r1"),
        ("completed", "success", "r1"),
    ]
    assert await github.job(4242) is None


async def test_jobs_that_have_not_ended_are_found_by_their_runs(world: World, github: GitHub) -> None:
    queue = world.forge.queue_job
    done = queue(REPOSITORY, ["linux"], "true")
    world.forge.cancel_job(done.id)
    gated = queue(REPOSITORY, ["gpu"], "true", waiting=True)
    running = queue(REPOSITORY, ["linux"], "true", run_id=77)
    await (await world.runner("r1")).take()
    behind = queue(REPOSITORY, ["linux", "Big"], "true", run_id=77, name="build (2)")
    queued = queue(REPOSITORY, ["gpu"], "true")
    runs = await github.open_runs()
    assert set(runs.ids) == {gated.run_id, 77, queued.run_id}
    assert 0.9 < runs.budget_left < 1
    found = {job.id: job for run_id in runs.ids for job in await github.jobs_of_run(run_id)}
    assert {number: job.status for number, job in found.items()} == {
        gated.id: "waiting",
        running.id: "in_progress",
        behind.id: "queued",
        queued.id: "queued",
    }
    shown = found[behind.id]
    assert (shown.run_id, shown.run_attempt, shown.labels) == (77, 1, ["linux", "Big"])
    assert (shown.name, shown.workflow_name, shown.runner_name) == ("build (2)", "CI", None)
    assert shown.html_url == world.forge.addresses.job_page(world.forge._forge.repository(REPOSITORY), behind)
    assert await github.jobs_of_run(4242) == []


@pytest.mark.parametrize("count", [100, 101, 230])
async def test_all_open_runs_and_their_jobs_are_found_however_many(world: World, github: GitHub, count: int) -> None:
    runs = [world.forge.queue_job(REPOSITORY, ["linux"], "true").run_id for _ in range(count)]
    jobs = [world.forge.queue_job(REPOSITORY, ["linux"], "true", run_id=runs[0]).id for _ in range(count)]
    assert set((await github.open_runs()).ids) == set(runs)
    assert {job.id for job in await github.jobs_of_run(runs[0])} > set(jobs)


async def test_what_has_not_changed_costs_nothing_of_the_rate_limit(world: World, github: GitHub) -> None:
    first = world.forge.queue_job(REPOSITORY, ["linux"], "true", run_id=7)
    token = world.forge._forge.tokens[TOKEN]

    async def look() -> tuple[tuple[int, ...], list[str], int]:
        before = world.forge.rate_limits.usage(token.user_id, "core").used
        runs = (await github.open_runs()).ids
        jobs = [job.status for run_id in runs for job in await github.jobs_of_run(run_id)]
        return runs, jobs, world.forge.rate_limits.usage(token.user_id, "core").used - before

    assert await look() == ((7,), ["queued"], 4)
    assert await look() == ((7,), ["queued"], 0)
    world.forge.cancel_job(first.id)
    assert await look() == ((), [], 1)
    world.forge.queue_job(REPOSITORY, ["linux"], "true", run_id=8)
    assert (await look())[:2] == ((8,), ["queued"])


def test_only_so_many_answers_are_kept_and_those_asked_for_last() -> None:
    kept = KeptAnswers(most=2)
    for name in ("a", "b"):
        kept.keep(name, Answer("etag", name, None))
    assert kept.get("a") is not None
    kept.keep("c", Answer("etag", "c", None))
    assert (len(kept), kept.get("b")) == (2, None)
    assert [kept.get(name) is not None for name in ("a", "c")] == [True, True]


async def test_calls_of_one_credential_share_its_bound() -> None:
    under_way = most = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return web.json_response([])

    serving, url = await _serve(answer)

    class Catalog:
        async def forge_access(self, entity_id: str) -> ForgeAccess:
            endpoint = Endpoint("e", "forge", ForgeKind.GITHUB, "https://forge.example", url)
            return ForgeAccess(endpoint, Entity(entity_id, "e", EntityKind.REPOSITORY, "o", entity_id, "c"), TOKEN)

    try:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            forges = Forges(Catalog(), session, Clock())  # type: ignore[arg-type]  # all that it is asked for
            clients = [await forges.of(f"entity-{number % 8}") for number in range(200)]
            await asyncio.gather(*(one.tools() for one in clients))
    finally:
        await serving.cleanup()
    assert 40 <= most <= 50


@pytest.mark.parametrize("call", CALLS)
async def test_a_forge_that_never_answers_may_go_well_later(world: World, call: str) -> None:
    world.forge.set_faults(RestFault(operation="*", hang=True))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session:
        with pytest.raises(ForgeUnavailable, match="no answer"):
            await CALLS[call](client(session, world.forge.api_url))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://forge.invalid", "https://127.0.0.1:1"])
async def test_a_forge_that_cannot_be_reached_may_go_well_later(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for call in CALLS.values():
            with pytest.raises(ForgeUnavailable, match="no answer") as caught:
                await call(client(session, url))
            assert TOKEN not in _said(caught.value)


GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"1",
    b'"text"',
    b"<html>proxy</html>",
    b"\xff\xfe",
    b'{"runners": 5, "runner": 5, "encoded_jit_config": 5}',
    b'{"runners": [{"id": "x"}], "runner": {"id": "x"}, "encoded_jit_config": "AA"}',
    b'{"runner": {"id": 5}, "encoded_jit_config": "%%%"}',
    b'{"runner": {"id": 5}, "encoded_jit_config": "e30"}',
    b'{"runner": {"id": 5}, "encoded_jit_config": "eyJhIjoxfQ=="}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", GARBAGE, ids=lambda content: repr(content[:40]))
@pytest.mark.parametrize("status", [200, 201, 302, 400, 500])
async def test_an_answer_that_is_none_is_an_error_of_the_forge(content: bytes, status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=content, content_type="application/json")

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", answer)
    serving = web.AppRunner(server, access_log=None)
    await serving.setup()
    try:
        await web.TCPSite(serving, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{serving.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            for name in ("configure", "find", "list", "job", "tools"):
                if name == "tools" and content == b"[]" and status < 300:
                    continue  # a forge that offers nothing
                with pytest.raises(ForgeError) as caught:
                    await CALLS[name](client(session, url))
                assert TOKEN not in _said(caught.value)
    finally:
        await serving.cleanup()


async def test_a_broken_connection_may_go_well_later() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname())
    async with server, aiohttp.ClientSession() as session:
        for call in CALLS.values():
            with pytest.raises(ForgeUnavailable):
                await call(client(session, url))


def test_a_configuration_shows_none_of_its_secrets() -> None:
    assert "hush" not in repr(RunnerConfiguration(7, {".credentials": b"hush"}))


async def test_the_offer_is_kept_for_five_minutes(world: World) -> None:
    class OneCatalog:
        async def forge_access(self, _: str) -> ForgeAccess:
            endpoint = Endpoint("e", "forge", ForgeKind.GITHUB, "https://forge.example", world.forge.api_url)
            owner, _, name = REPOSITORY.partition("/")
            return ForgeAccess(endpoint, Entity("entity", "e", EntityKind.REPOSITORY, owner, name, "c"), TOKEN)

    clock = Clock()
    forges = Forges(OneCatalog(), world.client, clock)  # type: ignore[arg-type]  # all that it is asked for
    first = await forges.tools("entity")
    world.forge.set_faults(RestFault(operation="*", status=500))
    clock.move(seconds=299)
    assert await forges.tools("entity") == first
    clock.move(seconds=1)
    with pytest.raises(ForgeUnavailable):
        await forges.tools("entity")


async def test_webhooks_are_installed_listed_over_pages_and_removed(github: GitHub) -> None:
    made = await github.install_webhook("https://us.example/webhooks", "secret", insecure_ssl=False)
    assert (made.url, made.active, made.events, made.insecure_ssl) == (
        "https://us.example/webhooks", True, ["workflow_job"], False,
    )  # fmt: skip
    with pytest.raises(ForgeRefused, match="already exists"):
        await github.install_webhook("https://us.example/webhooks", "secret", insecure_ssl=False)
    for number in range(100):
        await github.install_webhook(f"https://other.example/{number}", "secret", insecure_ssl=False)
    found = await github.webhooks()
    assert made in found
    assert len({one.id for one in found}) == len(found) >= 101
    for _ in range(2):  # one that is not there is fine
        await github.remove_webhook(made.id)
    assert made not in await github.webhooks()
