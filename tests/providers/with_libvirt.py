"""The libvirt provider for the conformance tests: real QEMU processes that run boot sectors under TCG."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import libvirt
import msgspec

from providers.contract import InstanceSpec, Resources
from providers.libvirt import ImageFile, LibvirtProvider
from tests.providers.adapter import Adapter, Offers
from tests.real.boot_sectors import CONSOLE_TEXT, boot_sector
from tests.real.conftest import SETTINGS, URI, start_libvirt

MORE_THAN_ANY_HOST_MIB = 2**30


class Libvirt(Adapter):
    offers = frozenset(Offers)
    console_text = CONSOLE_TEXT

    def __init__(self, directory: Path) -> None:
        self._instances = directory / "instances"
        self._instances.mkdir(parents=True)
        image = directory / "stays.img"
        image.write_bytes(boot_sector("halts"))
        self._images = [ImageFile("stays", str(image))]
        self._opened: list[LibvirtProvider] = []
        start_libvirt()

    async def open(self, on_stopped: Callable[[str], None] = lambda _: None) -> LibvirtProvider:
        provider = LibvirtProvider(SETTINGS, self._images, self._instances)
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

    def traces(self) -> list[str]:
        conn = libvirt.open(URI)
        domains = [domain.name() for domain in conn.listAllDomains() if str(self._instances) in domain.XMLDesc()]
        conn.close()
        return sorted([*domains, *(path.name for path in self._instances.iterdir())])

    @asynccontextmanager
    async def no_space(self) -> AsyncIterator[None]:
        """A file system with room for a record but not for a disk."""
        _run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(self._instances))
        yield
        _run("umount", str(self._instances))

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        os.kill(libvirtd(), signal.SIGKILL)
        try:
            yield
        finally:
            await asyncio.to_thread(start_libvirt)

    @asynccontextmanager
    async def failing_halfway(self) -> AsyncIterator[InstanceSpec]:
        """QEMU is started only when disk and seed are there, and finds no such memory."""
        small = self.spec()
        yield msgspec.structs.replace(small, resources=Resources(1, MORE_THAN_ANY_HOST_MIB, 1))

    async def end(self, instance_id: str) -> None:
        for process in processes_with(instance_id):
            os.kill(process, signal.SIGKILL)


def libvirtd() -> int:
    return int(Path("/run/libvirtd.pid").read_text())


def processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
