"""What runs inside a machine: the calls of its boot, then the forge's runner with one job."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from coordinator.http.errors import ApiError
from tests.simulation.world.forge import Runner
from tests.simulation.world.life import DeadError
from tests.simulation.world.scenario import chances

if TYPE_CHECKING:
    from tests.simulation.world.world import World

_AGAIN_SECONDS: Final = 5.0
_FORGE_GIVES_UP_SECONDS: Final = 600.0
"""How long the forge waits for a runner that has fallen silent before its job has failed."""


class Request:
    """What the HTTP handlers use of a request."""

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self._body = body
        self.headers = headers
        self.query_params: dict[str, str] = {}

    async def body(self) -> bytes:
        return self._body

    async def stream(self) -> AsyncIterator[bytes]:
        yield self._body


class _RefusedError(Exception):
    """The coordinator does not want this machine."""


class Guest:
    def __init__(self, world: "World", name: str, token: str, power_off: Callable[[], None]) -> None:
        self.name = name
        self._world = world
        self._headers = {"authorization": f"Bearer {token}"}
        self._power_off = power_off
        self._chance = chances(name, world.scenario.seed)
        self._runner: Runner | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._runner is not None and self._runner.online and self._runner.job is not None

    def boot(self) -> None:
        self._task = self._world.spawn(self._live())

    def end(self) -> None:
        """The machine is no more, whatever it was doing."""
        if self._task is not None:
            self._task.cancel()
        if self._runner is not None:
            self._world.forge.disconnect(self._runner)
            if self._runner.job is not None:
                self._world.spawn(self._given_up(self._runner))

    async def _given_up(self, runner: Runner) -> None:
        await asyncio.sleep(_FORGE_GIVES_UP_SECONDS)
        self._world.forge.complete(runner, "failure")

    async def _live(self) -> None:
        await asyncio.sleep(self._chance.uniform(1, 15))
        if self._chance.random() < self._world.faults.machine_dies:
            self._world.accident("machine_dies")
            self._world.log(self.name, "dies while it boots")
            self._power_off()
            return
        try:
            runner_id = await self._boot()
        except _RefusedError as refusal:
            self._world.log(self.name, f"gives up: {refusal}")
            self._power_off()
            return
        await self._run(runner_id)
        self._power_off()

    async def _boot(self) -> int:
        await self._say("installing")
        files = [await self._file(name) for name in ("runner", "credentials", "credentials_rsaparams")]
        await self._say("idle")
        return int(files[0])

    async def _run(self, runner_id: int) -> None:
        forge = self._world.forge
        self._runner = runner = forge.connect(runner_id)
        if runner is None:
            return
        while runner.job is None and not runner.removed:
            runner.changed.clear()
            await runner.changed.wait()
        if runner.job is None:
            return
        self._world.log(self.name, f"runs job {runner.job.id}")
        if self._chance.random() < self._world.faults.machine_dies:
            await asyncio.sleep(runner.job.spec.duration / 2)
            self._world.accident("machine_dies")
            self._world.log(self.name, "dies with its job")
            forge.disconnect(runner)
            self._world.spawn(self._given_up(runner))
            return
        await asyncio.sleep(runner.job.spec.duration)
        forge.complete(runner, "success")

    async def _say(self, status: str) -> None:
        body = json.dumps({"status": status, "message": status}).encode()

        async def call() -> None:
            await self._world.runner_api().status(Request(body, self._headers))  # type: ignore[arg-type]

        await self._until_answered(call)

    async def _file(self, name: str) -> bytes:
        async def call() -> bytes:
            request: Any = Request(b"", self._headers)
            return await self._world.runner_api().credentials(request, name)

        content: bytes = await self._until_answered(call)
        return content

    async def _until_answered(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Asked again while the coordinator is down or says that it may be asked again.

        Raises:
            _RefusedError: it refuses.
        """
        while True:
            await asyncio.sleep(self._chance.uniform(0.001, 0.02))
            try:
                answer = await self._world.ask(call)
            except ApiError as error:
                if error.status < 500:
                    raise _RefusedError(error.details) from None
            except DeadError:
                pass
            else:
                if self._chance.random() >= self._world.faults.guest_call:
                    return answer
                self._world.accident("guest_call")
                self._world.log(self.name, "an answer of the coordinator is lost")
            await asyncio.sleep(_AGAIN_SECONDS)
