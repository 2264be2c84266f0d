"""Starting and stopping the demo's parts: forge simulator, coordinator, agent; each is a process of its own."""

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from providers.libvirt.settings import LibvirtSettings
from tests.demo.places import ROOT, Places, guest_image

REPOSITORY: Final = "octo-org/widgets"
LABELS: Final = ("self-hosted", "linux")
_START_SECONDS: Final = 30.0


class DemoFailed(Exception):
    """The demo did not go as it must; the message says what to look at."""


class Ports(msgspec.Struct, frozen=True):
    forge: int
    http: int
    grpc: int


class Farm:
    """The parts as processes. `start` each, then `stop` all."""

    def __init__(self, places: Places, settings: LibvirtSettings, *, jobs: int) -> None:
        self.places = places
        self.settings = settings
        self.address = str(settings.gateway)
        self.ports = Ports(_free_port(self.address), _free_port(self.address), _free_port("127.0.0.1"))
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self._jobs = jobs

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    async def start(self) -> None:
        await self._start_forge()
        self._write_configs()
        await self.start_coordinator()
        await self._apply()
        await self.start_agent()

    async def _start_forge(self) -> None:
        url = f"http://{self.address}:{self.ports.forge}"
        await self._start(
            "forge",
            [
                *[sys.executable, "-m", "tests.forge_simulator"],
                *["--bind", f"{self.address}:{self.ports.forge}", "--public-url", url],
                *["--state-file", str(self.places.forge_state), "--repository", REPOSITORY],
                *["--webhook-url", f"http://{self.address}:{self.ports.http}/webhooks"],
            ],
        )
        await self._until(
            "forge", lambda: self.places.forge_state.exists() and _answers(self.address, self.ports.forge)
        )

    async def start_coordinator(self) -> None:
        await self._start(
            "coordinator", [_program("hostler-coordinator"), "--config", str(self.places.coordinator_config)]
        )
        await self._until(
            "coordinator", lambda: _answers(self.address, self.ports.http) and _answers(*_split(self.grpc))
        )

    async def start_agent(self) -> None:
        await self._start("agent", [_program("hostler-agent"), "--config", str(self.places.agent_config)])

    async def kill(self, part: str) -> None:
        """As a crash would."""
        process = self.processes.pop(part)
        process.kill()
        await process.wait()

    async def stop(self) -> None:
        for process in reversed(self.processes.values()):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 15)
                except TimeoutError:
                    process.kill()
                    await process.wait()

    def state(self) -> dict[str, Any]:
        """What the forge simulator keeps: its addresses and secrets."""
        return dict(json.loads(self.places.forge_state.read_text()))

    def check_alive(self) -> None:
        """Raises DemoFailed: a part has ended by itself."""
        for part, process in self.processes.items():
            if process.returncode is not None:
                raise DemoFailed(f"the {part} ended with {process.returncode}:\n{_tail(self.places.log(part))}")

    async def _start(self, part: str, command: list[str]) -> None:
        with self.places.log(part).open("ab") as log:
            self.processes[part] = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )

    async def _until(self, part: str, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not holds():
                    self.check_alive()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise DemoFailed(f"the {part} does not answer:\n{_tail(self.places.log(part))}") from None

    def _write_configs(self) -> None:
        state = self.state()
        owner, name = REPOSITORY.split("/")
        _write(self.places.coordinator_config, _coordinator_toml(self))
        _write(self.places.agent_config, _agent_toml(self))
        _write(self.places.folder / "token", state["tokens"][0]["value"])
        _write(self.places.folder / "webhook-secret", state["hooks"][0]["secret"])
        _write(self.places.fleet, _fleet_toml(state["base_url"], state["api_url"], owner, name, self._jobs))

    async def _apply(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *[_program("hostler"), "apply", str(self.places.fleet), "--coordinator", self.grpc],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise DemoFailed(f"hostler apply {self.places.fleet}: {said.decode()}")


def _coordinator_toml(farm: Farm) -> str:
    http = f"{farm.address}:{farm.ports.http}"
    return f"""\
data_dir = "{farm.places.folder}/coordinator"

[http]
bind = "{http}"
public_url = "http://{http}"

[grpc]
bind = "{farm.grpc}"

[database]
url = "sqlite:///{farm.places.folder}/coordinator/hostler.db"
"""


def _agent_toml(farm: Farm) -> str:
    return f"""\
data_dir = "{farm.places.agent_data}"

[host]
name = "demo-host"

[coordinator]
address = "{farm.grpc}"

[capacity]
reserved_disk_gib = 1
cpu_overcommit = 8.0

[libvirt]
acceleration = "{farm.settings.acceleration}"
network = "{farm.settings.network}"
subnet = "{farm.settings.subnet}"

[[image]]
name = "test-guest"
path = "{guest_image()}"
"""


def _fleet_toml(base_url: str, api_url: str, owner: str, name: str, jobs: int) -> str:
    return f"""\
[[endpoint]]
name = "forge"
base_url = "{base_url}"
api_base_url = "{api_url}"

[[credentials]]
name = "demo"
endpoint = "forge"
token_file = "token"

[[repository]]
endpoint = "forge"
owner = "{owner}"
name = "{name}"
credentials = "demo"
webhook_secret_file = "webhook-secret"

[[flavor]]
name = "small"
vcpus = 1
memory_mib = 256
disk_gib = 1

[[pool]]
name = "small"
endpoint = "forge"
repository = "{owner}/{name}"
provider = "libvirt"
image = "test-guest"
flavor = "small"
labels = ["self-hosted", "linux"]
max_runners = {max(jobs, 4)}
"""


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])


def new_secret() -> str:
    return secrets.token_hex(16)
