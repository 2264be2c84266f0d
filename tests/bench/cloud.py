"""A provider executable that tells when it is started, and which machine it is asked for, over a pipe of ours."""

import asyncio
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.bench.results import BenchmarkFailed

NAME: Final = "cloud"
_SECONDS: Final = 30.0
_EXECUTABLE: Final = r"""#!/bin/sh
calls="${GARM_PROVIDER_CONFIG_FILE%/*}/calls"
echo "$GARM_COMMAND ${GARM_INSTANCE_ID:-}" >"$calls"
case "$GARM_COMMAND" in
  CreateInstance)
    read -r body
    name=${body#*'"name":"'}
    name=${name%%'"'*}
    echo "Named $name" >"$calls"
    printf '{"provider_id":"%s","name":"%s","status":"running"}' "$name" "$name"
    ;;
  ListInstances) echo '[]' ;;
esac
"""


class Call(NamedTuple):
    at: float  # time.perf_counter() when the executable told of itself
    command: str
    subject: str


class Cloud:
    """`async with Cloud(folder)`: what is written into the pipe is taken within the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._executable = folder / "provider"
        self._config = folder / "provider.toml"
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._rest = b""

    @property
    def toml(self) -> str:
        """The table for the coordinator's configuration."""
        return f'[[provider]]\nname = "{NAME}"\nexecutable = "{self._executable}"\nconfig_file = "{self._config}"\n'

    async def __aenter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        self._executable.write_text(_EXECUTABLE)
        self._executable.chmod(0o755)
        self._config.write_text("")
        os.mkfifo(self._folder / "calls")
        self._pipe = os.open(self._folder / "calls", os.O_RDWR | os.O_NONBLOCK)  # a writer of our own: it never ends
        asyncio.get_running_loop().add_reader(self._pipe, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)

    async def next(self, command: str) -> Call:
        """The next call of this kind; those of others are passed over."""
        try:
            async with asyncio.timeout(_SECONDS):
                while (call := await self._calls.get()).command != command:
                    pass
        except TimeoutError:
            raise BenchmarkFailed(f"no {command} within {_SECONDS:g} s") from None
        return call

    def _read(self) -> None:
        now = time.perf_counter()
        *lines, self._rest = (self._rest + os.read(self._pipe, 65536)).split(b"\n")
        for line in lines:
            command, _, subject = line.decode().partition(" ")
            self._calls.put_nowait(Call(now, command, subject))
