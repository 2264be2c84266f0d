"""The processes of virtual machines, by real ones: each end is told, and nothing after the last look."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.lxd import processes
from providers.lxd.processes import Processes

LOOKS = (0.0, 0.01)


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LOOKS_AFTER_SECONDS", LOOKS)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as one:
        yield one
        one.kill()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_the_end_of_a_process_is_told_by_its_name_and_its_descriptor_given_back(
    sleeper: subprocess.Popen[bytes],
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    watched = Processes(told.put_nowait)
    before = descriptors()
    for _ in range(2):
        await asyncio.to_thread(watched.watch, "one", sleeper.pid)
    await asyncio.sleep(0.02)
    assert told.empty()
    assert descriptors() == before + 1
    sleeper.kill()
    assert [await asyncio.wait_for(told.get(), 10) for _ in LOOKS] == ["one", "one"]
    assert descriptors() == before
    await asyncio.sleep(0.02)
    assert told.empty()


@pytest.mark.parametrize("process", [-1, 0, 2**22])
async def test_what_is_no_process_any_more_has_ended(process: int) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    Processes(told.put_nowait).watch("one", process)
    assert await asyncio.wait_for(told.get(), 10) == "one"


async def test_nothing_is_told_of_what_is_watched_no_longer(sleeper: subprocess.Popen[bytes]) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    watched = Processes(told.put_nowait)
    watched.watch("one", sleeper.pid)
    await asyncio.sleep(0)
    watched.close()
    sleeper.kill()
    sleeper.wait()
    await asyncio.sleep(0.02)
    assert told.empty()
