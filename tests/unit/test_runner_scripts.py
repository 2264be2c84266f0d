"""The shell texts that guests get, run by a real shell and curl against a small server."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from coordinator.runner_api import scripts
from tests.samples.domain import instance, pool

TOKEN = "a.secret-token"


class Api:
    """Answers with one install script, and keeps what it was told."""

    def __init__(self) -> None:
        self.install_script = ""
        self.statuses: list[dict[str, str]] = []
        self.url = ""

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/api/v1/metadata/install-script", self._script)
        app.router.add_post("/api/v1/callbacks/status", self._status)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _script(self, request: web.Request) -> web.Response:
        allowed = request.headers.get("Authorization") == f"Bearer {TOKEN}" and self.install_script
        return web.Response(text=self.install_script) if allowed else web.Response(status=401)

    async def _status(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        self.statuses.append(msgspec.json.decode(await request.read(), type=dict[str, str]))
        return web.json_response(None)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    one = Api()
    runner = await one.start()
    yield one
    await runner.cleanup()


async def run_wrapper(api: Api) -> tuple[int, str]:
    text = scripts.wrapper(instance(), pool(), scripts.urls(api.url), TOKEN)
    shell = await asyncio.create_subprocess_exec(
        "sh", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(shell.communicate(text.encode()), 60)
    return shell.returncode or 0, said.decode()


async def test_the_wrapper_runs_the_install_script_that_its_token_gets(api: Api) -> None:
    api.install_script = "echo installed"
    assert await run_wrapper(api) == (0, "installed\n")
    assert api.statuses == []


async def test_the_wrapper_reports_an_install_script_that_fails(api: Api) -> None:
    api.install_script = "echo no disk >&2; exit 1"
    code, said = await run_wrapper(api)
    assert (code, said) == (1, "no disk\n")
    assert api.statuses == [
        {"status": "failed", "message": "the install script failed; the machine's console says why"}
    ]


async def test_the_wrapper_reports_an_install_script_that_it_does_not_get(api: Api) -> None:
    code, said = await run_wrapper(api)
    assert code == 1
    assert "401" in said
    assert TOKEN not in said
    assert api.statuses == [{"status": "failed", "message": "the install script could not be fetched"}]
