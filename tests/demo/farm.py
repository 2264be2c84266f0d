"""Starting and stopping the demo's parts: forge simulator, coordinator, agent; each is a process of its own."""

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from providers.libvirt.settings import LibvirtSettings
from providers.lxd.settings import LxdSettings
from tests.demo import configs
from tests.demo.failed import DemoFailed
from tests.demo.places import CLOUD_GUEST, ROOT, TEST_GUEST, Guest, Places

REPOSITORY: Final = "octo-org/widgets"
LABELS: Final = ("self-hosted", "linux")
_START_SECONDS: Final = 30.0


class Ports(msgspec.Struct, frozen=True):
    forge: int
    http: int
    runner_api: int
    grpc: int


class Farm:
    """The parts as processes. `start` each, then `stop` all."""

    def __init__(
        self,
        places: Places,
        settings: LibvirtSettings | LxdSettings,
        *,
        guest: Guest = TEST_GUEST,
        jobs: int = 1,
        lock: int | None = None,
        network_allow: Sequence[str] = (),
        beside: LxdSettings | None = None,
        cpu_overcommit: float = 8.0,
    ) -> None:
        """`beside`: a second driver of the agent.

        `network_allow`: besides the forge, which is on this host and so would be closed to the machines.

        `lock`: a file descriptor that all parts inherit, so that what it locks is locked while any of them lives."""
        self.places = places
        self.settings = settings
        self.beside = beside
        self.guest = guest
        self.most_runners = max(jobs, 4)
        self.address = str(settings.gateway)
        self.ports = Ports(
            forge=free_port(self.address),
            runner_api=free_port(self.address),
            http=free_port("127.0.0.1"),
            grpc=free_port("127.0.0.1"),
        )
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.network_allow = [f"{self.address}:{self.ports.forge}", *network_allow]
        self.cpu_overcommit = cpu_overcommit
        self._inherited = () if lock is None else (lock,)

    @property
    def in_cloud(self) -> bool:
        """Its machines are a cloud provider's, and there is no agent."""
        return self.guest.driver == CLOUD_GUEST.driver

    @property
    def accelerator(self) -> str:
        """For a QEMU that nobody else tells."""
        return "tcg" if isinstance(self.settings, LibvirtSettings) and self.settings.acceleration == "tcg" else "kvm"

    @property
    def webhooks(self) -> str:
        return f"127.0.0.1:{self.ports.http}"

    @property
    def runner_api(self) -> str:
        return f"{self.address}:{self.ports.runner_api}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    async def start(self) -> None:
        await self._start_forge()
        self._write_configs()
        await self.start_coordinator()
        await self._apply()
        if not self.in_cloud:
            await self.start_agent()

    async def _start_forge(self) -> None:
        url = f"http://{self.address}:{self.ports.forge}"
        await self._start(
            "forge",
            [
                *[sys.executable, "-m", "tests.forge_simulator"],
                *["--bind", f"{self.address}:{self.ports.forge}", "--public-url", url],
                *["--state-file", str(self.places.forge_state), "--repository", REPOSITORY],
                *["--webhook-url", f"http://{self.webhooks}/webhooks"],
            ],
        )
        await self._until("forge", self._forge_is_set_up)

    def _forge_is_set_up(self) -> bool:
        # The hook is the last thing that it makes of what it was asked for.
        return self.places.forge_state.exists() and bool(self.state()["hooks"])

    async def start_coordinator(self) -> None:
        await self._start(
            "coordinator", [_program("hostler-coordinator"), "--config", str(self.places.coordinator_config)]
        )
        await self._until("coordinator", lambda: _answers(*_split(self.runner_api)) and _answers(*_split(self.grpc)))

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
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
                pass_fds=self._inherited,
            )
        self.places.remember(part, self.processes[part].pid)

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
        _write(self.places.coordinator_config, configs.coordinator_toml(self))
        if self.in_cloud:
            _write(self.places.cloud_config, configs.cloud_toml(self))
        else:
            _write(self.places.agent_config, configs.agent_toml(self))
        _write(self.places.folder / "token", state["tokens"][0]["value"])
        _write(self.places.folder / "webhook-secret", state["hooks"][0]["secret"])
        _write(self.places.fleet, configs.fleet_toml(self, REPOSITORY, LABELS))

    async def _apply(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *[_program("hostler"), "apply", str(self.places.fleet), "--coordinator", self.grpc],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise DemoFailed(f"hostler apply {self.places.fleet}: {said.decode()}")


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def free_port(address: str) -> int:
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
