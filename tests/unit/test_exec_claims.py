"""Who is making an instance: known of processes that outlive whoever began them, and ended when they take too long."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.exec.claims import Claims
from providers.exec.errors import StillMaking
from providers.exec.process import Ending, run

LONG = 300.0
BEGIN_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from providers.exec.claims import Claims
from providers.exec.process import run

async def main():
    with Claims(Path(sys.argv[1])).claim("one") as files:
        await run(sys.argv[2], {"PATH": "/usr/bin:/bin"}, b"", 300, files)

asyncio.run(main())
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "calls")


@pytest.fixture
def executable(tmp_path: Path) -> Iterator[Path]:
    """One that writes down its number and goes on, with a child, until it is killed or told to stop."""
    path = tmp_path / "executable"
    path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nwhile [ ! -e {tmp_path}/stop ]; do sleep 0.1; done\n")
    path.chmod(0o755)
    yield path
    (tmp_path / "stop").touch()


async def until(holds: object) -> None:
    async with asyncio.timeout(20):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.02)


def is_dead(number: int) -> bool:
    """Also when nobody has reaped it yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


async def left_by_a_coordinator_that_was_killed(tmp_path: Path, executable: Path) -> int:
    """The number of an executable whose coordinator is dead."""
    coordinator = subprocess.Popen(  # noqa: ASYNC220 (it is to be killed in its midst)
        [sys.executable, "-c", BEGIN_AND_WAIT, str(tmp_path / "calls"), str(executable)],
        cwd=Path(__file__).parents[2],
    )
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    coordinator.kill()
    coordinator.wait()
    return int((tmp_path / "pid").read_text())


async def test_an_executable_that_outlives_its_coordinator_is_known_until_it_ends(
    claims: Claims, tmp_path: Path, executable: Path
) -> None:
    await left_by_a_coordinator_that_was_killed(tmp_path, executable)
    assert claims.is_held("one", LONG)
    assert not claims.is_held("another", LONG)
    with pytest.raises(StillMaking), claims.claim("one"):
        pass
    (tmp_path / "stop").touch()
    await until(lambda: not claims.is_held("one", LONG))
    with claims.claim("one") as files:
        assert len(files) == 1
    assert list((tmp_path / "calls").iterdir()) == []


async def test_one_that_takes_too_long_is_killed_with_its_children(
    claims: Claims, tmp_path: Path, executable: Path
) -> None:
    number = await left_by_a_coordinator_that_was_killed(tmp_path, executable)
    began = time.time() - 2
    os.utime(tmp_path / "calls/one.lock", (began, began))
    assert claims.is_held("one", 60)
    os.kill(number, 0)
    assert claims.is_held("one", 1)
    await until(lambda: not claims.is_held("one", 1))
    await until(lambda: is_dead(number))


async def test_a_call_that_ends_leaves_no_claim_and_the_caller_itself_is_never_killed(
    claims: Claims, tmp_path: Path, executable: Path
) -> None:
    (tmp_path / "stop").touch()
    with claims.claim("one") as files:
        assert claims.is_held("one", 0.0)  # by ourselves, and for too long
        ended = await run(str(executable), {"PATH": "/usr/bin:/bin"}, b"", 20, files)
    assert ended.ending is Ending.EXITED
    assert not claims.is_held("one", LONG)
    assert list((tmp_path / "calls").iterdir()) == []


def test_without_a_directory_nothing_is_claimed() -> None:
    claims = Claims(None)
    with claims.claim("one") as files:
        assert files == ()
        assert not claims.is_held("one", LONG)


def test_claims_are_for_nobody_else_to_see(claims: Claims, tmp_path: Path) -> None:
    with claims.claim("one"):
        assert (tmp_path / "calls").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "calls/one.lock").stat().st_mode & 0o777 == 0o600
