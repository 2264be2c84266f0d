"""Running one process: nothing of it stays, whatever it does and whenever its caller loses patience."""

import asyncio
import os
import select
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from providers.exec.process import Ending, Finished, run

PROVIDERS = Path(__file__).parents[1] / "fixtures" / "providers"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.touch()
    return path


async def started(executable: str, config: Path, timeout_seconds: float) -> Finished:
    return await run(str(PROVIDERS / executable), {"GARM_PROVIDER_CONFIG_FILE": str(config)}, b"", timeout_seconds)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_gone(pid_file: Path) -> bool:
    """Whether the process dies within two seconds; one that only waits to be reaped by its parent is dead."""
    try:
        process = os.pidfd_open(int(pid_file.read_text()))
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 2)[0])
    finally:
        os.close(process)


async def test_one_that_ignores_sigterm_is_killed(config: Path) -> None:
    assert (await started("ignores-sigterm", config, 1.5)).ending is Ending.TIMED_OUT
    assert is_gone(config.with_name("config.pid"))


async def test_a_grandchild_that_holds_the_output_is_killed_at_the_deadline(config: Path) -> None:
    assert (await started("leaves-grandchild", config, 1.5)).ending is Ending.TIMED_OUT
    assert is_gone(config.with_name("config.pid"))


async def test_a_grandchild_out_of_reach_holds_nobody_up(config: Path) -> None:
    before = open_files()
    began = monotonic()
    assert (await started("leaves-escaped-grandchild", config, 1.5)).ending is Ending.TIMED_OUT
    assert monotonic() - began < 8
    await asyncio.sleep(0)  # the loop closes files in its next round
    assert open_files() <= before
    os.kill(int(config.with_name("config.pid").read_text()), signal.SIGKILL)


async def test_a_cancelled_call_takes_its_processes_along(config: Path) -> None:
    pid_file = config.with_name("config.pid")
    os.mkfifo(pid_file)  # opening it waits for the process to write its id
    call = asyncio.create_task(started("leaves-grandchild", config, 60))
    pid = await asyncio.to_thread(pid_file.read_text)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    pid_file.unlink()
    pid_file.write_text(pid)
    assert is_gone(pid_file)


async def test_a_call_cancelled_while_it_starts_leaves_no_process(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, go_on = asyncio.create_subprocess_exec, asyncio.Event()

    async def slow_start(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*arguments, **options)
        await go_on.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow_start)
    pid_file = config.with_name("config.pid")
    os.mkfifo(pid_file)
    call = asyncio.create_task(started("leaves-grandchild", config, 60))
    pid = await asyncio.to_thread(pid_file.read_text)
    call.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    pid_file.unlink()
    pid_file.write_text(pid)
    assert is_gone(pid_file)


async def test_runs_leave_no_file_open(config: Path) -> None:
    await started("prints", config, 60)
    before = open_files()
    for _ in range(3):
        assert (await started("prints", config, 60)).ending is Ending.EXITED
        assert (await started("leaves-grandchild", config, 0.2)).ending is Ending.TIMED_OUT
    await asyncio.sleep(0)  # the loop closes files in its next round
    assert open_files() <= before
