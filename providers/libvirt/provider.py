"""The libvirt provider as the agent uses it: order per instance, events, adoption. What it does is in machines.py."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import structlog

from providers.contract import HypervisorUnavailable, InstanceSpec, Machine, Phase, ProviderError, Report
from providers.libvirt.acceleration import choose
from providers.libvirt.disk import Images
from providers.libvirt.hypervisor import Hypervisor
from providers.libvirt.machines import Machines
from providers.libvirt.network import ensure_network
from providers.libvirt.settings import ImageFile, LibvirtSettings
from providers.libvirt.store import Store

_PROOF_FILE: Final = "kvm-proof.json"

_log = structlog.get_logger(__name__)


class LibvirtProvider:
    """Machines as transient QEMU domains; everything of one lies in `directory/<instance id>`."""

    driver = "libvirt"

    def __init__(self, settings: LibvirtSettings, images: list[ImageFile], directory: Path) -> None:
        self._settings = settings
        self._images = Images(images)
        self._store = Store(directory.absolute())
        self._hypervisor = Hypervisor(settings.uri, ended=self._ended, back=self._catch_up)
        self._machines: Machines | None = None
        self._on_stopped: Callable[[str], None] = lambda _instance_id: None
        self._order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._noting: set[asyncio.Task[None]] = set()
        self.acceleration = "none"
        self.images: list[str] = []

    async def open(self, on_stopped: Callable[[str], None]) -> None:
        self._on_stopped = on_stopped
        try:
            self._machines = await self._prepare()
        except BaseException:
            await self._hypervisor.close()
            raise
        # What ended between adoption's look and now was told to nobody: events need an open provider.
        for instance_id in await self._hypervisor.thread(self._machines.ids):
            self._ended(instance_id)

    async def _prepare(self) -> Machines:
        await self._hypervisor.thread(self._store.prepare)
        await self._hypervisor.open()
        await self._hypervisor.call(ensure_network, self._settings)
        proof = self._store.root.parent / _PROOF_FILE
        acceleration = await self._hypervisor.thread(choose, self._settings.acceleration, proof)
        machines = Machines(self._settings, self._images, self._store, acceleration)
        await self._hypervisor.call(machines.adopt)
        self.images = await self._hypervisor.thread(self._images.usable)
        self.acceleration = acceleration.value
        return machines

    async def close(self) -> None:
        for task in self._noting:
            task.cancel()
        await asyncio.gather(*self._noting, return_exceptions=True)
        await self._hypervisor.close()
        self._machines = None

    async def create(self, spec: InstanceSpec, report: Report) -> Machine:
        machines = self._opened()
        loop = asyncio.get_running_loop()

        begun = False

        def report_from_thread(phase: Phase) -> None:
            nonlocal begun
            begun = True
            loop.call_soon_threadsafe(report, phase)

        async with self._lock(spec.instance_id):
            try:
                return await self._hypervisor.call(machines.create, spec, report_from_thread)
            except asyncio.CancelledError:
                # The thread went on to its end. What it made goes; a machine that it only found stays.
                if begun:
                    await self._abandon(machines, spec.instance_id)
                raise

    async def delete(self, instance_id: str) -> None:
        machines = self._opened()
        async with self._lock(instance_id):
            await self._hypervisor.call(machines.clear, instance_id)

    async def inventory(self) -> list[Machine]:
        return await self._hypervisor.call(self._opened().inventory)

    async def console(self, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]:
        return await self._hypervisor.thread(self._opened().console, instance_id, limit_bytes)

    async def _abandon(self, machines: Machines, instance_id: str) -> None:
        machines.unfinished.add(instance_id)
        try:
            await self._hypervisor.call(machines.undo, instance_id)
        except ProviderError as error:
            _log.warning("create_not_undone", instance_id=instance_id, error=str(error))

    def _opened(self) -> Machines:
        if self._machines is None:
            raise HypervisorUnavailable("the libvirt provider is not open")
        return self._machines

    def _lock(self, instance_id: str) -> asyncio.Lock:
        """What happens to one instance happens in order; a lock lives as long as somebody holds or awaits it."""
        return self._order.setdefault(instance_id, asyncio.Lock())

    def _ended(self, instance_id: str) -> None:
        task = asyncio.create_task(self._note_end(instance_id))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _note_end(self, instance_id: str) -> None:
        """Under the instance's lock: the end of a machine that is still being made, or is just being deleted, waits."""
        if self._machines is None:
            return
        try:
            async with self._lock(instance_id):
                ended = await self._hypervisor.call(self._machines.note_end, instance_id)
        except ProviderError as error:
            # Away again: the next connection compares.
            _log.warning("end_not_noted", instance_id=instance_id, error=str(error))
            return
        if ended:
            self._on_stopped(instance_id)

    async def _catch_up(self) -> None:
        """After an outage: the network must be there, half-made machines go, and ends that nobody saw are told."""
        if self._machines is None:
            return
        await self._hypervisor.call(ensure_network, self._settings)
        for instance_id in list(self._machines.unfinished):
            async with self._lock(instance_id):
                if instance_id in self._machines.unfinished:
                    await self._abandon(self._machines, instance_id)
        for instance_id in await self._hypervisor.thread(self._machines.ids):
            await self._note_end(instance_id)
