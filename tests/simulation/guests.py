"""What runs inside the farm's machines: the calls of a Linux runner, then one job.

Guests live apart from agents and providers, as real machines do.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
import structlog

log = structlog.get_logger(__name__)

_FILES = ("runner", "credentials", "credentials_rsaparams")
_RETRY_SECONDS = 0.05


class Boot(msgspec.Struct, frozen=True):
    """What a machine is told when it boots."""

    name: str
    metadata_url: str
    callback_url: str
    token: str


PowerOff = Callable[[], Awaitable[None]]


class _Gone(Exception):
    """Nobody wants this machine any more: its calls are refused."""


class Guests:
    """Boots go on only while `may_boot` is set, jobs end only while `may_end` is. `work` is what a job does."""

    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        self.work = work
        self.may_boot = asyncio.Event()
        self.may_boot.set()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.booted: list[Boot] = []
        self.waited_seconds: dict[str, float] = {}  # for the runner's configuration, by machine
        self._running: dict[str, asyncio.Task[None]] = {}

    def running(self) -> set[str]:
        return set(self._running)

    def boot(self, boot: Boot, power_off: PowerOff) -> None:
        self.booted.append(boot)
        self._running[boot.name] = asyncio.create_task(self._play(boot, power_off), name=f"guest {boot.name}")

    def end(self, name: str) -> None:
        """The machine is no more."""
        if (task := self._running.pop(name, None)) is not None:
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._running.values())
        for name in list(self._running):
            self.end(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _play(self, boot: Boot, power_off: PowerOff) -> None:
        try:
            await self.may_boot.wait()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40)) as session:
                await self._run_job(session, await self._bootstrap(session, boot))
            await power_off()
        except _Gone as reason:
            log.info("guest gives up", machine=boot.name, reason=str(reason))
        finally:
            self._running.pop(boot.name, None)

    async def _bootstrap(self, session: aiohttp.ClientSession, boot: Boot) -> dict[str, bytes]:
        headers = {"Authorization": f"Bearer {boot.token}"}

        async def say(status: str, message: str) -> None:
            body = {"status": status, "message": message}
            await _call(session, "POST", f"{boot.callback_url}/status", headers, body)

        await say("installing", "booted")
        began = asyncio.get_running_loop().time()
        files = {
            name: (await _call(session, "GET", f"{boot.metadata_url}/credentials/{name}", headers))[1]
            for name in _FILES
        }
        self.waited_seconds[boot.name] = asyncio.get_running_loop().time() - began
        await say("idle", "up")
        return files

    async def _run_job(self, session: aiohttp.ClientSession, files: dict[str, bytes]) -> None:
        server = json.loads(files["runner"])["serverUrl"]
        headers = {"Authorization": f"Bearer {json.loads(files['credentials'])['data']['token']}"}
        await _call(session, "POST", f"{server}/session", headers)
        status, told = 0, b""
        while status != 200:
            status, told = await _call(session, "GET", f"{server}/job", headers)
        job = told.decode().split("\n", 1)[0].removeprefix("job ").strip()
        await self.may_end.wait()
        await self.work()
        await _call(session, "POST", f"{server}/job/{job}/complete?result=success", headers)


async def _call(
    session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: object = None
) -> tuple[int, bytes]:
    """Ask until there is an answer, as machines do whose coordinator is being restarted.

    Raises:
        _Gone: the answer is a refusal.
    """
    while True:
        try:
            async with session.request(method, url, headers=headers, json=body) as answer:
                text = await answer.read()
                if answer.status < 400:
                    return answer.status, text
                if answer.status < 500:
                    raise _Gone(f"{method} {url}: {answer.status} {text.decode(errors='replace')[:200]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("guest tries again", url=url, error=str(error))
        await asyncio.sleep(_RETRY_SECONDS)
