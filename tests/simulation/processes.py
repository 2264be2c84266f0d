"""Coordinator and agents as processes of their own, to be killed as by a power cut."""

import asyncio
import json
import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from coordinator.config import CoordinatorConfig


def free_port() -> int:
    """Below the ports that the kernel gives to connections, so that none of them takes it before we listen."""
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors

    def check(self) -> None:
        """Fail when it has ended by itself."""
        assert self._process.returncode is None, f"it ended: {self.errors()}"

    def errors(self) -> str:
        return self._errors.read_text()

    async def kill(self) -> str:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        return self.errors()


async def _start(module: str, config: Path, within: Sequence[str] = ()) -> Process:
    errors = config.with_suffix(".stderr")
    with errors.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *within,
            sys.executable,
            "-m",
            module,
            "--config",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=file,
        )
    return Process(process, errors)


async def start_coordinator(directory: Path, config: CoordinatorConfig) -> Process:
    clouds = "".join(
        f'[[provider]]\nname = "{one.name}"\nexecutable = "{one.executable}"\nconfig_file = "{one.config_file}"\n'
        f'environment = ["PATH"]\ntimeout_seconds = {one.timeout_seconds}\nappear_seconds = {one.appear_seconds}\n'
        for one in config.provider
    )
    path = directory / "coordinator.toml"
    path.write_text(
        f'data_dir = "{config.data_dir}"\nlog_level = "warning"\n'
        f'[http]\nbind = "{config.http.bind}"\nrunner_bind = "{config.http.runner_bind}"\n'
        f'[grpc]\nbind = "{config.grpc.bind}"\nagents_bind = "{config.grpc.agents_bind}"\n'
        f'clients_bind = "{config.grpc.clients_bind}"\npublic_names = {json.dumps(config.grpc.public_names)}\n'
        f'[database]\nurl = "{config.database_url}"\n{clouds}'
    )
    return await _start("coordinator.main", path)


async def start_agent(
    directory: Path, host: str, address: str = "", *, within: Sequence[str] = (), slow_seconds: float = 0.0
) -> Process:
    """An agent's process.

    Args:
        address: of the coordinator; empty: what its enrolment told.
        within: what to put before the command.
        slow_seconds: how long a machine's disk takes, and then its start.
    """
    path = directory / f"{host}.toml"
    path.write_text(
        f'data_dir = "{directory / host}"\nlog_level = "warning"\n[host]\nname = "{host}"\n'
        f'[coordinator]\naddress = "{address}"\n'
        "[capacity]\nreserved_memory_mib = 0\nreserved_disk_gib = 0\nlow_memory_mib = 0\nlow_disk_gib = 0\n"
        "cpu_overcommit = 16.0\n"
        f"[simulated]\ndisk_seconds = {slow_seconds}\nstart_seconds = {slow_seconds}\n"
    )
    return await _start("agent.main", path, within)
