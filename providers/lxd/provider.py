"""The LXD provider as the agent uses it; what is done to an instance is in machines.py."""

from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import msgspec
import structlog
from pylxd import Client

from providers.contract import Driver, HypervisorUnavailable, Machine
from providers.isolation import Coordinator, Firewall, Nowhere, Watch
from providers.libvirt.acceleration import prove
from providers.lxd import catalogue, images, place
from providers.lxd.folders import Folders
from providers.lxd.hypervisor import THREADS, Hypervisor
from providers.lxd.machines import Machines
from providers.lxd.processes import Processes
from providers.lxd.remembered import Remembered
from providers.lxd.request import CONTAINERS, TYPES, VIRTUAL_MACHINES
from providers.lxd.settings import LxdSettings
from providers.steady import SteadyProvider

_PROOF_FILE: Final = "kvm-proof.json"
_GUESTS_FILE: Final = "guests.json"

_log = structlog.get_logger(__name__)


class LxdProvider(SteadyProvider[Client]):
    """Virtual machines (driver `lxd`) and system containers (driver `lxd-container`) in an LXD project of their own."""

    def __init__(
        self,
        settings: LxdSettings,
        directory: Path,
        neighbours: tuple[IPv4Network, ...] = (),
        coordinator: Coordinator | None = None,
    ) -> None:
        """`neighbours`: subnets of this host's machines of other providers. `coordinator`: closed to machines."""
        self._settings = settings
        self._directory = directory.absolute()
        self._hypervisor = Hypervisor(settings, ended=self._name_ended, lost=self._lost, back=self._catch_up)
        super().__init__(self._hypervisor, THREADS)
        self._coordinator = coordinator or Nowhere()
        self._remembered = Remembered(self._directory / _GUESTS_FILE)
        network = msgspec.structs.replace(settings.isolated, neighbours=neighbours)
        self._firewall = Firewall(network, remember=self._remembered.save)
        self._watch = Watch(self._firewall)
        self._made: Machines | None = None
        self._processes: Processes | None = None
        self._accelerations: dict[str, str] = {}  # by driver, of those that work here
        self._images: dict[str, tuple[str, ...]] = {}  # by LXD's type of instance

    @property
    def devices(self) -> dict[str, int]:
        return {}

    @property
    def drivers(self) -> list[Driver]:
        return [
            Driver(name, acceleration, self._images.get(TYPES[name], ()), fetches=True)
            for name, acceleration in self._accelerations.items()
        ]

    async def open(self, on_stopped: Callable[[str], None]) -> None:
        try:
            await super().open(on_stopped)
        except BaseException:
            await self._watch.close()
            if self._processes is not None:
                self._processes.close()
            raise

    async def inventory(self) -> list[Machine]:
        await self._hypervisor.call(catalogue.drop_what_is_gone)
        self._images = await self._hypervisor.call(images.names_by_type)
        return await super().inventory()

    async def console(self, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]:
        if self._made is None:
            raise HypervisorUnavailable("the provider is not open")
        return await self._hypervisor.call(self._made.console, instance_id, limit_bytes)

    async def close(self) -> None:
        """Machines keep running, and their rules stay."""
        await self._watch.close()
        await super().close()
        if self._processes is not None:
            self._processes.close()
            self._processes = None
        if self._made is not None:
            await self._hypervisor.thread(self._made.close)
            self._made = None

    async def _prepare(self) -> Machines:
        await self._hypervisor.thread(Folders(self._directory).prepare)
        # Before LXD is asked for anything, and however long it takes to answer: what ran when we last knew is held.
        self._watch.open()
        await self._hypervisor.thread(lambda: self._firewall.hold(self._remembered.load()))
        await self._hypervisor.open()
        self._processes = Processes(self._name_ended)
        machines = Machines(self._settings, self._directory, self._firewall, self._coordinator, self._processes.watch)
        guests = await self._hypervisor.call(machines.guests)
        await self._hypervisor.thread(self._firewall.hold, guests)
        await self._restore()
        self._accelerations = await self._hypervisor.call(_accelerations, self._directory.parent / _PROOF_FILE)
        self._images = await self._hypervisor.call(images.names_by_type)
        self._made = machines
        await self._hypervisor.call(machines.adopt)
        await self._hypervisor.call(machines.attach_consoles)
        return machines

    async def _restore(self) -> None:
        await self._hypervisor.thread(self._firewall.restore)
        await self._hypervisor.call(place.ensure, self._settings)
        await self._hypervisor.thread(self._firewall.close_gate)
        if self._made is not None:
            await self._hypervisor.call(self._made.attach_consoles)

    def _name_ended(self, name: str) -> None:
        instance_id = self._made.id_of(name) if self._made is not None else None
        if instance_id is not None:
            self._ended(instance_id)


def _accelerations(client: Client, proof: Path) -> dict[str, str]:
    """The drivers that work here, and by what: LXD names its own drivers as `lxc | qemu`."""
    working = {name.strip() for name in client.host_info["environment"]["driver"].split("|")}
    found = {}
    if "qemu" in working:
        # LXD has no virtual machine without KVM, and has seen no more of it than that it opens.
        proved = prove(proof)
        if proved.works or not proved.qemu:
            found[VIRTUAL_MACHINES] = "kvm"
        else:
            _log.warning("kvm_unusable", detail=proved.detail, driver=VIRTUAL_MACHINES)
    if "lxc" in working:
        found[CONTAINERS] = "none"
    return found
