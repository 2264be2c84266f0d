"""Runs one process with a deadline and bounded output. Knows nothing of providers."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection, Mapping
from enum import Enum

import msgspec

STDOUT_LIMIT_BYTES = 1024 * 1024
STDERR_LIMIT_BYTES = 64 * 1024
_REAP_SECONDS = 5
_AT_ONCE_BYTES = 256 * 1024


class Ending(Enum):
    EXITED = "exited"
    TIMED_OUT = "timed out"
    TOO_MUCH_OUTPUT = "too much output"


class Finished(msgspec.Struct, frozen=True):
    """How a process ended and what it wrote.

    `exit_code` is negative for a signal and None when the process was killed here. `stderr` is the end of what was
    written, `stderr_cut` says that its beginning is missing.
    """

    ending: Ending
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    stderr_cut: bool


class _TooMuch(Exception):
    """More came out of a pipe than it may hold."""


class _Pipe:
    """The reading end of a pipe, and the last `limit` bytes that came out of it.

    Our own, not the subprocess module's: it can be closed while someone still holds the writing end, so a process that
    escaped its group cannot keep us. And it is there at once: each turn of the loop that a start waits for is one in
    which the loop does something else first.
    """

    def __init__(self, limit: int, *, fail_beyond: bool) -> None:
        self.data = bytearray()
        self.cut = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # nothing can come any more
        self._limit = limit
        self._fail_beyond = fail_beyond
        self._reading = -1

    def open(self) -> int:
        """Returns the writing end, which is the caller's to close."""
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        asyncio.get_running_loop().add_reader(self._reading, self._read)
        return writing

    def close(self) -> None:
        if self._reading >= 0:
            asyncio.get_running_loop().remove_reader(self._reading)
            os.close(self._reading)
            self._reading = -1

    def _read(self) -> None:
        try:
            data = os.read(self._reading, _AT_ONCE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            if not self.ended.done():
                self.ended.set_result(None)
            return
        self.data += data
        if len(self.data) > self._limit:
            self.cut = True
            del self.data[: -self._limit]
            if self._fail_beyond and not self.ended.done():
                self.ended.set_exception(_TooMuch())


async def run(
    executable: str,
    environment: Mapping[str, str],
    stdin: bytes,
    timeout_seconds: float,
    inherited: Collection[int] = (),
) -> Finished:
    """Run to the end: the process has exited and nobody holds its output any more.

    `inherited`: open files that it gets beside its input and output.

    It leads a process group of its own. At the deadline, on too much output and on cancellation the whole group is
    killed at once; a process that left the group is no longer listened to.

    Raises:
        OSError: it could not be started.
    """
    out = _Pipe(STDOUT_LIMIT_BYTES, fail_beyond=True)
    err = _Pipe(STDERR_LIMIT_BYTES, fail_beyond=False)
    with contextlib.ExitStack() as stack:
        stack.callback(out.close)
        stack.callback(err.close)
        process = await _start(executable, environment, out, err, inherited)
        ending = await _wait(process, stdin, timeout_seconds, out.ended, err.ended)
        exit_code = process.returncode
        if ending is not Ending.EXITED:
            await _kill_group(process)
        return Finished(
            ending=ending,
            exit_code=exit_code,
            stdout=bytes(out.data),
            stderr=bytes(err.data),
            stderr_cut=err.cut,
        )


async def _start(
    executable: str,
    environment: Mapping[str, str],
    out: _Pipe,
    err: _Pipe,
    inherited: Collection[int],
) -> asyncio.subprocess.Process:
    with contextlib.ExitStack() as ours:
        stdout = out.open()
        ours.callback(os.close, stdout)
        stderr = err.open()
        ours.callback(os.close, stderr)
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                executable,
                stdin=asyncio.subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env=dict(environment),
                start_new_session=True,
                pass_fds=inherited,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It may run already, with children; cancelled by itself, asyncio would kill but the first process.
            with contextlib.suppress(OSError):
                await _kill_group(await starting)
            raise


async def _wait(
    process: asyncio.subprocess.Process, stdin: bytes, timeout_seconds: float, *ended: asyncio.Future[None]
) -> Ending:
    try:
        async with asyncio.timeout(timeout_seconds):
            await asyncio.gather(_feed(process.stdin, stdin), process.wait(), *ended)
    except TimeoutError:
        return Ending.TIMED_OUT
    except _TooMuch:
        return Ending.TOO_MUCH_OUTPUT
    except BaseException:
        await _kill_group(process)
        raise
    return Ending.EXITED


async def _feed(writer: asyncio.StreamWriter | None, stdin: bytes) -> None:
    if writer is None:
        return
    # One that ends without reading its input is judged by its exit code, not by the broken pipe.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        writer.write(stdin)
        await writer.drain()
    writer.close()


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    # Bounded: a process in uninterruptible sleep outlives even SIGKILL.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_REAP_SECONDS):
            await process.wait()
