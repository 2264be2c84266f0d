"""A virtual machine that is a build server: started, commanded by QEMU's guest agent, and ended by its process."""

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.real.server_image import Image

_BOOT_SECONDS: Final = 300.0
_COMMAND_SECONDS: Final = 600.0
_PAUSE: Final = 0.1
_CMDLINE: Final = "root=/dev/vda rw console=ttyS0 quiet panic=-1 net.ifnames=1 mitigations=off random.trust_cpu=on"
# What guest-sync-delimited puts before its answer: whatever came earlier is not for us.
_FENCE: Final = b"\xff"


class CommandFailed(AssertionError):
    """A command inside ended otherwise than well; the message has all that it said."""


class Ended(msgspec.Struct, frozen=True):
    code: int
    said: str


class BuildServer:
    """`start` it as often as `kill` ended it: it goes on with the disk that it had."""

    def __init__(self, folder: Path, qemu: list[str], image: Image, files: Path) -> None:
        """Args: files: an image of a file system, which it finds as /dev/vdb."""
        self._folder = folder
        self._qemu = qemu
        self._image = image
        self._files = files
        self._process: asyncio.subprocess.Process | None = None
        self._agent: _GuestAgent | None = None
        self.console = folder / "console.log"
        backing = ["-b", str(image.disk), "-F", "qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, self._disk], check=True)

    async def start(self) -> None:
        """Returns when systemd has started all that it is to start."""
        socket = self._folder / "guest-agent.sock"
        socket.unlink(missing_ok=True)
        with self.console.open("ab") as log:
            command = self._command(socket)
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _BOOT_SECONDS
        self._agent = await _GuestAgent.reach(socket, deadline, self._check_runs)
        await self.until("systemctl is-system-running --wait | grep -E 'running|degraded'", _BOOT_SECONDS)

    async def run(self, script: str, seconds: float = _COMMAND_SECONDS) -> str:
        """What a shell script printed, as root inside.

        Raises:
            CommandFailed: it did not exit with 0.
        """
        ended = await self.ends(script, seconds)
        if ended.code != 0:
            raise CommandFailed(f"{script!r} ended with {ended.code}: {ended.said}")
        return ended.said

    async def ends(self, script: str, seconds: float = _COMMAND_SECONDS) -> Ended:
        """How a shell script ended, whatever its code."""
        assert self._agent is not None
        async with asyncio.timeout(seconds):
            return await self._agent.execute(script)

    async def until(self, script: str, seconds: float = _COMMAND_SECONDS) -> str:
        """Repeat a script until it exits with 0."""
        deadline = time.monotonic() + seconds
        while (ended := await self.ends(script, seconds)).code != 0:
            assert time.monotonic() < deadline, f"{script!r} still ends with {ended.code}: {ended.said}"
            await asyncio.sleep(_PAUSE)
        return ended.said

    async def kill(self) -> None:
        """As a loss of power would; killed already: fine."""
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def last_words(self, script: str) -> str:
        """The console, and what a script says where anything can say anything yet."""
        with suppress(AssertionError, TimeoutError, OSError, ValueError):
            return self.said() + (await self.ends(script, 30)).said
        return self.said()

    def said(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    @property
    def _disk(self) -> Path:
        return self._folder / "disk.qcow2"

    def _check_runs(self) -> None:
        assert self._process is not None
        assert self._process.returncode is None, f"QEMU ended with {self._process.returncode}: {self.said()[-2000:]}"

    def _command(self, socket: Path) -> list[str]:
        drives = [f"file={self._disk},format=qcow2,if=virtio,cache=unsafe"]
        drives += [f"file={self._files},format=raw,if=virtio,readonly=on"]
        return [
            *self._qemu,
            *("-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4096"),
            *("-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"),
            *(word for drive in drives for word in ("-drive", drive)),
            # Without a ROM: it does not boot from the network, and needs no package that has such ROMs.
            *("-netdev", "user,id=uplink", "-device", "virtio-net-pci,netdev=uplink,romfile="),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial"),
            *("-chardev", f"socket,id=agent,path={socket},server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
            *("-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), "-append", _CMDLINE),
        ]


class _GuestAgent:
    """QEMU's guest agent, by its protocol of JSON lines (QEMU: docs/interop/qemu-ga-ref)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    @classmethod
    async def reach(cls, socket: Path, deadline: float, check: Callable[[], None]) -> "_GuestAgent":
        """Returns when it answers; what was asked before it ran is answered late or never."""
        while True:
            check()
            with suppress(OSError):  # QEMU has not made it yet
                one = cls(*await asyncio.open_unix_connection(socket, limit=1 << 24))
                break
            await asyncio.sleep(_PAUSE)
        attempt = 0
        while True:
            attempt += 1
            check()
            assert time.monotonic() < deadline, "the guest agent does not answer"
            try:
                async with asyncio.timeout(2):
                    await one._synchronise(attempt)
            except TimeoutError:
                continue
            return one

    async def execute(self, script: str) -> Ended:
        what = {"path": "/bin/sh", "arg": ["-c", f"exec 2>&1\n{script}"], "capture-output": True}
        started = await self._call("guest-exec", what)
        while not (status := await self._call("guest-exec-status", {"pid": started["pid"]}))["exited"]:
            await asyncio.sleep(_PAUSE)
        said = base64.b64decode(status.get("out-data", "")).decode(errors="replace")
        return Ended(status.get("exitcode", -status.get("signal", 0)), said)

    def close(self) -> None:
        self._writer.close()

    async def _synchronise(self, number: int) -> None:
        self._send("guest-sync-delimited", {"id": number})
        while True:
            await self._reader.readuntil(_FENCE)
            if json.loads(await self._reader.readline()).get("return") == number:
                return

    async def _call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        async with self._turn:
            self._send(name, arguments)
            answer = json.loads(await self._reader.readline())
        assert "return" in answer, f"{name}: {answer}"
        return dict(answer["return"])

    def _send(self, name: str, arguments: dict[str, Any]) -> None:
        self._writer.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
