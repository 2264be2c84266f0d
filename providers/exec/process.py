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


class _Captured(asyncio.Protocol):
    """The last `limit` bytes that came out of a pipe; `ended` is done when nothing can come any more."""

    def __init__(self, limit: int, *, fail_beyond: bool) -> None:
        self.data = bytearray()
        self.cut = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._limit = limit
        self._fail_beyond = fail_beyond

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > self._limit:
            self.cut = True
            del self.data[: -self._limit]
            if self._fail_beyond and not self.ended.done():
                self.ended.set_exception(_TooMuch())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Pipe:
    """The reading end of a pipe. Our own, not the subprocess module's: it can be closed while someone still holds the
    writing end, so a process that escaped its group cannot keep us."""

    def __init__(self, limit: int, *, fail_beyond: bool) -> None:
        self.captured = _Captured(limit, fail_beyond=fail_beyond)

    async def open(self, stack: contextlib.AsyncExitStack) -> int:
        """Returns the writing end, which is the caller's to close."""
        reading, writing = os.pipe()
        file = os.fdopen(reading, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self.captured, file)
        stack.callback(transport.close)
        return writing


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
    async with contextlib.AsyncExitStack() as stack:
        process = await _start(executable, environment, out, err, stack, inherited)
        ending = await _wait(process, stdin, timeout_seconds, out.captured.ended, err.captured.ended)
        exit_code = process.returncode
        if ending is not Ending.EXITED:
            await _kill_group(process)
        return Finished(
            ending=ending,
            exit_code=exit_code,
            stdout=bytes(out.captured.data),
            stderr=bytes(err.captured.data),
            stderr_cut=err.captured.cut,
        )


async def _start(
    executable: str,
    environment: Mapping[str, str],
    out: _Pipe,
    err: _Pipe,
    stack: contextlib.AsyncExitStack,
    inherited: Collection[int],
) -> asyncio.subprocess.Process:
    with contextlib.ExitStack() as ours:
        stdout = await out.open(stack)
        ours.callback(os.close, stdout)
        stderr = await err.open(stack)
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
