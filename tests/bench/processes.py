"""What is measured runs in processes of its own: started, waited for, and ended with the benchmark."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.bench.results import BenchmarkFailed

ROOT: Final = Path(__file__).resolve().parents[2]
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0


class Processes:
    """`async with Processes(folder)`: whatever was started in the block ends with it. Logs go to the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._running)):
            await self.stop(name)

    async def start(
        self, name: str, command: list[str], up: Callable[[], bool], environment: Mapping[str, str] | None = None
    ) -> int:
        """Start a program and wait until it is `up`; its process id. `environment` adds to ours.

        Raises:
            BenchmarkFailed: it ended by itself, or was not up in time.
        """
        with self._log(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        self._running[name] = process
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not up():
                    self.check(name)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise BenchmarkFailed(f"{name} is not up after {_START_SECONDS:.0f} s:\n{self._tail(name)}") from None
        return process.pid

    def check(self, name: str) -> None:
        """Raises BenchmarkFailed: the process has ended by itself."""
        code = self._running[name].returncode
        if code is not None:
            raise BenchmarkFailed(f"{name} ended with {code}:\n{self._tail(name)}")

    async def kill(self, name: str) -> None:
        """As a crash would."""
        process = self._running.pop(name)
        process.kill()
        await process.wait()

    async def stop(self, name: str) -> None:
        process = self._running.pop(name)
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-15:])


async def ask(module: str, request: bytes) -> bytes:
    """Run a module of ours as a program that gets `request` on standard input; what it answers on standard output.

    Raises:
        BenchmarkFailed: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        *python(module), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        answer, _ = await process.communicate(request)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BenchmarkFailed(f"{module} ended with {process.returncode}")
    return answer


def python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def program(name: str) -> str:
    """One of the project's commands, of the environment that runs the benchmarks."""
    path = Path(sys.executable).parent / name
    if not os.access(path, os.X_OK):
        raise BenchmarkFailed(f"{path} is not there: run tools/setup")
    return str(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
