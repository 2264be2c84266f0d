"""The libvirt provider as the agent uses it; what is done to a machine is in machines.py."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import libvirt
import msgspec

from providers.contract import Arch, Driver
from providers.isolation import Coordinator, Firewall, Nowhere, Watch
from providers.libvirt import console, emulation, nesting, privileges
from providers.libvirt.acceleration import choose
from providers.libvirt.disk import Images
from providers.libvirt.domain import is_host_arch
from providers.libvirt.hypervisor import THREADS, Hypervisor
from providers.libvirt.machines import Machines, guests
from providers.libvirt.network import ensure_network
from providers.libvirt.settings import ImageFile, LibvirtSettings
from providers.libvirt.store import Store
from providers.pci import DeviceKind, HostDevices, usable
from providers.steady import SteadyProvider

_PROOF_FILE: Final = "kvm-proof.json"


class LibvirtProvider(SteadyProvider[libvirt.virConnect]):
    """Machines as transient QEMU domains; everything of one lies in `directory/<instance id>`."""

    def __init__(
        self,
        settings: LibvirtSettings,
        images: list[ImageFile],
        directory: Path,
        neighbours: tuple[IPv4Network, ...] = (),
        devices: Sequence[DeviceKind] = (),
        coordinator: Coordinator | None = None,
    ) -> None:
        """`neighbours`: subnets of this host's machines of other providers. `coordinator`: closed to machines."""
        self._settings = settings
        self._images = Images(images)
        self._kinds = devices
        self._coordinator = coordinator or Nowhere()
        self._devices = HostDevices()
        self._store = Store(directory.absolute())
        self._hypervisor = Hypervisor(settings.uri, ended=self._ended, lost=self._lost, back=self._catch_up)
        super().__init__(self._hypervisor, THREADS)
        self._firewall = Firewall(msgspec.structs.replace(settings.isolated, neighbours=neighbours))
        self._watch = Watch(self._firewall)
        self.acceleration = "none"
        self._usable: dict[Arch, tuple[str, ...]] = {}

    @property
    def drivers(self) -> list[Driver]:
        own = next((names for arch, names in self._usable.items() if is_host_arch(arch)), ())
        emulated = {arch: self._usable.get(arch, ()) for arch in self._settings.emulate}
        return [Driver("libvirt", self.acceleration, own, fetches=True, emulated=emulated, passes_devices=True)]

    @property
    def devices(self) -> dict[str, int]:
        return self._devices.counts

    async def open(self, on_stopped: Callable[[str], None]) -> None:
        try:
            await super().open(on_stopped)
        except BaseException:
            await self._watch.close()
            raise

    async def close(self) -> None:
        """Machines keep running, and their rules stay."""
        await self._watch.close()
        await super().close()

    async def console(self, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]:
        return await self._hypervisor.thread(console.tail, self._store.folder(instance_id).console, limit_bytes)

    async def _prepare(self) -> Machines:
        await self._hypervisor.thread(self._store.prepare)
        # Before libvirt is asked for anything: what runs already is held, and what is gone is forgotten.
        self._watch.open()
        await self._hypervisor.thread(lambda: self._firewall.hold(guests(self._settings, self._store)))
        await self._hypervisor.open()
        await self._hypervisor.call(privileges.tell)
        await self._restore()
        await self._hypervisor.call(emulation.check, self._settings.emulate)
        proof = self._store.root.parent / _PROOF_FILE
        acceleration = await self._hypervisor.thread(choose, self._settings.acceleration, proof)
        await self._hypervisor.thread(nesting.tell, acceleration)
        self._devices = await self._hypervisor.thread(usable, self._kinds)
        machines = Machines(
            *(self._settings, self._images, self._store, self._firewall, self._coordinator),
            *(acceleration, self._devices),
        )
        await self._hypervisor.call(machines.adopt)
        self._usable = await self._hypervisor.thread(self._images.usable)
        self.acceleration = acceleration.value
        return machines

    async def _restore(self) -> None:
        await self._hypervisor.thread(self._firewall.restore)
        await self._hypervisor.call(ensure_network, self._settings)
        await self._hypervisor.thread(self._firewall.close_gate)
