"""What the simulator's own tests share: a forge with one repository, a receiver of its webhooks, a client, a runner."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from tests.forge_simulator import ForgeSimulator, Hook

REPOSITORY = "acme/widgets"
SECRET = "it's a secret"
LABELS = ["self-hosted", "Linux", "x64"]


class Received(msgspec.Struct):
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def action(self) -> str:
        return str(self.body["action"])


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class World:
    """A forge, a receiver of its webhooks, and a client with a token."""

    def __init__(self, forge: ForgeSimulator, client: aiohttp.ClientSession) -> None:
        self.forge = forge
        self.client = client
        self.received: list[Received] = []
        self.answer_with = 200
        self.answer_after_seconds = 0.0
        forge.add_repository(REPOSITORY)
        self.token = forge.add_token(REPOSITORY).value
        self.hook: Hook

    async def receive(self, request: web.Request) -> web.Response:
        self.received.append(Received(headers=dict(request.headers), raw=await request.read()))
        await asyncio.sleep(self.answer_after_seconds)
        return web.Response(status=self.answer_with, text="noted")

    async def call(self, method: str, url: str, body: object = None, *, token: str | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        data = None if body is None else msgspec.json.encode(body)
        async with self.client.request(method, url, data=data, headers=headers if token != "" else {}) as response:
            return Answer(status=response.status, headers=dict(response.headers), raw=await response.read())

    async def rest(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Answer:
        return await self.call(method, f"{self.forge.api_url}/repos/{REPOSITORY}{path}", body, token=token)

    async def control(self, method: str, path: str, body: object = None) -> Answer:
        return await self.call(method, f"{self.forge.base_url}/_control{path}", body, token=self.forge.control_token)

    async def jit(self, name: str = "r1", labels: list[str] | None = None) -> Answer:
        body = {"name": name, "runner_group_id": 1, "labels": labels or LABELS, "work_folder": "_work"}
        return await self.rest("POST", "/actions/runners/generate-jitconfig", body)

    async def runner(self, name: str = "r1", labels: list[str] | None = None) -> "RunnerSide":
        answer = await self.jit(name, labels)
        files = {
            k: base64.b64decode(v) for k, v in json.loads(base64.b64decode(answer.body["encoded_jit_config"])).items()
        }
        settings, credentials = json.loads(files[".runner"]), json.loads(files[".credentials"])
        runner = RunnerSide(self, settings["agentId"], settings["serverUrl"], credentials["data"]["token"])
        assert (await runner.call("POST", "/session")).status == 200
        return runner

    async def actions(self) -> list[str]:
        await self.forge.webhooks.settle()
        return [received.action for received in self.received]


class RunnerSide:
    def __init__(self, world: World, agent_id: int, server: str, token: str) -> None:
        self.world = world
        self.id = agent_id
        self.server = server
        self.token = token

    async def call(self, method: str, path: str, body: object = None) -> Answer:
        return await self.world.call(method, f"{self.server}{path}", body, token=self.token)

    async def take(self) -> int:
        answer = await self.call("GET", "/job")
        assert answer.status == 200
        return int(answer.raw.split()[1])

    async def finish(self, job_id: int, result: str = "success") -> None:
        assert (await self.call("POST", f"/job/{job_id}/complete?result={result}")).status == 200


@asynccontextmanager
async def make_world(base_path: str) -> AsyncIterator[World]:
    forge = ForgeSimulator(base_path=base_path, runner_timeout=timedelta(seconds=1))
    async with forge, aiohttp.ClientSession() as client:
        world = World(forge, client)
        receiver = web.Application()
        receiver.router.add_post("/webhooks", world.receive)
        serving = web.AppRunner(receiver, access_log=None)
        await serving.setup()
        await web.TCPSite(serving, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{serving.addresses[0][1]}/webhooks"
        world.hook = forge.add_hook(REPOSITORY, url, SECRET)
        yield world
        await serving.cleanup()
