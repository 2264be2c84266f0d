"""The LXD provider for the conformance tests: real containers of a busybox, in an LXD of the tests' own.

With `--lxd-machines` virtual machines as well; they need KVM and vhost_vsock (tests/real/test_lxd_machines.py).
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from providers.contract import InstanceSpec, Resources
from providers.lxd import LxdProvider
from providers.lxd.request import CONTAINERS, VIRTUAL_MACHINES
from tests.providers.adapter import Adapter, Offers
from tests.providers.with_libvirt import MORE_THAN_ANY_HOST_MIB, processes_with
from tests.real.lxd import CONSOLE_TEXT, Daemon, wait_until_away


class Lxd(Adapter):
    offers = frozenset(Offers)
    console_text = CONSOLE_TEXT

    def __init__(self, directory: Path, daemon: Daemon, driver: str = CONTAINERS) -> None:
        self._directory = directory / "instances"
        self._daemon = daemon
        self._driver = driver
        self._opened: list[LxdProvider] = []

    async def open(self, on_stopped: Callable[[str], None] = lambda _: None) -> LxdProvider:
        provider = LxdProvider(self._daemon.settings, self._directory)
        await provider.open(on_stopped)
        self._opened.append(provider)
        return provider

    async def close(self) -> None:
        for provider in self._opened:
            await provider.close()
        last = await self.open()
        for machine in await last.inventory():
            await last.delete(machine.instance_id)
        await last.close()
        assert self.traces() == []

    def spec(self, **changes: object) -> InstanceSpec:
        return super().spec(**({"driver": self._driver} | changes))

    def traces(self) -> list[str]:
        lxd = [*self._daemon.instances(), *self._daemon.volumes(), *self._daemon.ports()]
        return sorted([*lxd, *map(str, self._directory.glob("*"))])

    @asynccontextmanager
    async def no_space(self) -> AsyncIterator[None]:
        filler = self._daemon.pool / "filler"
        try:
            fill(filler)
            yield
        finally:
            filler.unlink()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        self._daemon.kill()
        await asyncio.to_thread(wait_until_away, self._daemon.socket)
        try:
            yield
        finally:
            await asyncio.to_thread(self._daemon.start)

    @asynccontextmanager
    async def failing_halfway(self) -> AsyncIterator[InstanceSpec]:
        """The instance is there and does not start."""
        yield self.spec(image="has-no-init")

    async def end(self, instance_id: str) -> None:
        for process in processes_with(f"hostler_test-{instance_id[:8]}"):
            with suppress(OSError):  # some of a virtual machine's end with its QEMU
                for child in children(process) if is_monitor(process) else [process]:
                    os.kill(child, signal.SIGKILL)


class LxdMachines(Lxd):
    # What its firmware writes differs with the firmware.
    offers = frozenset(Offers) - {Offers.CONSOLE}

    def __init__(self, directory: Path, daemon: Daemon) -> None:
        super().__init__(directory, daemon, VIRTUAL_MACHINES)

    def spec(self, **changes: object) -> InstanceSpec:
        return super().spec(**({"image": "stays-machine", "resources": Resources(1, 256, 1)} | changes))

    @asynccontextmanager
    async def failing_halfway(self) -> AsyncIterator[InstanceSpec]:
        """QEMU is started when all else is there, and finds no such memory."""
        yield self.spec(resources=Resources(1, MORE_THAN_ANY_HOST_MIB, 1))


def fill(path: Path) -> None:
    """Until its file system has not one block more, neither for content nor for what tells where that is."""
    with path.open("wb") as file:
        for piece in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)


def is_monitor(process: int) -> bool:
    """LXC's keeper of a container, whose init is its child; of a virtual machine the name is on QEMU itself."""
    return Path(f"/proc/{process}/cmdline").read_text().startswith("[lxc monitor]")


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
