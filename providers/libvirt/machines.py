"""Making, finding and destroying one machine, step by step. Blocks: runs in the hypervisor's threads."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import libvirt
import structlog

from hostler.images import ImageFormat
from providers.addresses import mac_address
from providers.contract import ImageUnavailable, InstanceSpec, Machine, MachineState, Phase, ProviderError, Report
from providers.isolation import Coordinator, Firewall, Guest, guest_of, port_name, runner_api
from providers.libvirt import domains
from providers.libvirt.disk import Base, Images, Overlays
from providers.libvirt.domain import Acceleration, DomainPlan, Tag, is_host_arch
from providers.libvirt.settings import LibvirtSettings
from providers.libvirt.store import Folder, Record, Store
from providers.pci import HostDevices
from providers.seed import Link, seed_files, write_seed

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

_log = structlog.get_logger(__name__)


class Machines:
    """What the provider does, without its concurrency: calls for one instance must not overlap."""

    def __init__(
        self,
        settings: LibvirtSettings,
        images: Images,
        store: Store,
        firewall: Firewall,
        coordinator: Coordinator,
        acceleration: Acceleration,
        devices: HostDevices,
    ) -> None:
        self._settings = settings
        self._images = images
        self._overlays = Overlays()
        self._store = store
        self._firewall = firewall
        self._coordinator = coordinator
        self._acceleration = acceleration
        self._devices = devices
        self._starter = domains.Starter()
        self.unfinished: set[str] = set()  # failed creates whose traces could not be removed yet

    def create(self, conn: libvirt.virConnect, spec: InstanceSpec, report: Report) -> Machine:
        held = self._find(conn, spec.instance_id)
        if held is not None and held.state is not MachineState.CREATING:
            return held
        _check(spec)
        self.clear(conn, spec.instance_id)
        with self._undone_on_failure(conn, spec.instance_id):
            base = self._images.find(spec.image, spec.arch) if spec.base is None else None
            called_at = runner_api(spec.bootstrap, spec.network)
            in_use = domains.functions(conn) if spec.resources.devices else set()
            called_by_us = self._coordinator.addresses()
            record = self._store.begin(spec, self._settings.addresses, called_at, self._devices, in_use, called_by_us)
            report(Phase.ACCEPTED)
            folder = self._store.folder(spec.instance_id)
            base = base or held_base(spec, folder)
            self._overlays.create(base, folder.disk, spec.resources.disk_gib)
            link = Link(record.ip, self._settings.addresses, self._settings.gateway)
            write_seed(seed_files(spec, link), folder.seed)
            record = self._store.reached(record, Phase.DISK)
            report(Phase.DISK)
            self._firewall.admit(spec.instance_id, _guest(self._settings, record))
            self._starter.start(conn, self._plan(record, base))
            record = self._store.reached(record, Phase.STARTED)
            report(Phase.STARTED)
        return _machine(record, MachineState.RUNNING)

    def clear(self, conn: libvirt.virConnect, instance_id: str) -> None:
        """Destroy whatever there is of an instance, and see that it is gone."""
        folder = self._store.folder(instance_id)
        name = self._name(conn, instance_id)
        domains.destroy(conn, instance_id)
        if domains.is_active(conn, instance_id):
            raise ProviderError(f"the domain {instance_id} is still there after it was destroyed")
        if name and not domains.is_taken(conn, name):  # by another's domain: the log is of that one
            domains.remove_logs(name)
        # Before its address may be another's.
        self._firewall.forget(instance_id)
        self._store.remove(instance_id)
        if folder.path.exists():
            raise ProviderError(f"{folder.path} is still there after it was removed")
        self.unfinished.discard(instance_id)

    def inventory(self, conn: libvirt.virConnect) -> list[Machine]:
        # Records before domains: a machine that starts in between must not be taken for one that has ended.
        records = {instance_id: self._store.record(instance_id) for instance_id in self._store.ids()}
        active = domains.tagged(conn, str(self._store.root))
        found = []
        for instance_id in sorted({*records, *active}):
            record = records.get(instance_id) or self._store.record(instance_id)
            if record is not None:
                found.append(_seen(record, active=instance_id in active))
            elif instance_id in active:
                tag, name = active[instance_id]
                found.append(Machine(instance_id, tag.generation, name, MachineState.RUNNING))
            elif self._store.folder(instance_id).path.exists():
                found.append(Machine(instance_id, 0, instance_id, MachineState.CREATING))
        return found

    def note_end(self, conn: libvirt.virConnect, instance_id: str) -> bool:
        """Record that a started machine is gone; False when that was known, or is not so."""
        record = self._store.record(instance_id)
        if record is None or Phase.STARTED not in record.phases or Phase.STOPPED in record.phases:
            return False
        if domains.is_active(conn, instance_id):
            return False
        self._store.reached(record, Phase.STOPPED)
        return True

    def adopt(self, conn: libvirt.virConnect) -> None:
        """Bring the records in line with the domains, after a time in which nobody watched them."""
        for record in self._store.records():
            if Phase.STARTED in record.phases:
                self.note_end(conn, record.instance_id)
            elif domains.is_active(conn, record.instance_id):
                self._store.reached(record, Phase.STARTED)

    def ids(self, _conn: libvirt.virConnect) -> list[str]:
        return self._store.ids()

    def _name(self, conn: libvirt.virConnect, instance_id: str) -> str:
        record = self._store.record(instance_id)
        return record.name if record is not None else domains.name(conn, instance_id)

    def _find(self, conn: libvirt.virConnect, instance_id: str) -> Machine | None:
        record = self._store.record(instance_id)
        if record is None:
            return None
        active = domains.is_active(conn, instance_id)
        if active and Phase.STARTED not in record.phases:
            record = self._store.reached(record, Phase.STARTED)
        return _seen(record, active=active)

    def _plan(self, record: Record, base: Base) -> DomainPlan:
        folder = self._store.folder(record.instance_id)
        return DomainPlan(
            tag=Tag(record.instance_id, record.generation, str(self._store.root)),
            name=record.name,
            arch=record.arch,
            resources=record.resources,
            acceleration=self._acceleration if is_host_arch(record.arch) else Acceleration.TCG,
            disk=folder.disk,
            base=Path(base.filename),
            base_format=base.format,
            seed=folder.seed,
            console=folder.console,
            firmware_variables=folder.firmware_variables,
            network=self._settings.network,
            port=port_name(self._settings.isolated, record.ip),
            mac=mac_address(record.ip),
            functions=record.functions,
        )

    @contextmanager
    def _undone_on_failure(self, conn: libvirt.virConnect, instance_id: str) -> Iterator[None]:
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                self.undo(conn, instance_id)

    def undo(self, conn: libvirt.virConnect, instance_id: str) -> None:
        """Leave the first error to be told: what cannot be removed now is removed when libvirt is back."""
        try:
            self.clear(conn, instance_id)
        except (ProviderError, OSError, libvirt.libvirtError) as error:
            self.unfinished.add(instance_id)
            _log.warning("create_not_undone", instance_id=instance_id, error=str(error))


def held_base(spec: InstanceSpec, folder: Folder) -> Base:
    """The catalogue's image, by a link of the machine's own."""
    if spec.base is None:
        raise ProviderError(f"{spec.name}: no image")
    if spec.base.format is ImageFormat.LXD:
        raise ImageUnavailable(
            f"the image '{spec.image}' is a tarball of LXD's, and libvirt's machines boot disks",
            hint="change the pool's provider, or its image to one in qcow2 or raw",
        )
    folder.base.hardlink_to(spec.base.path)
    return Base(str(folder.base), spec.base.format, spec.base.virtual_bytes)


def guests(settings: LibvirtSettings, store: Store) -> dict[str, Guest]:
    """Whom the packet filter must admit, by what is on disk."""
    return {record.instance_id: _guest(settings, record) for record in store.records()}


def _guest(settings: LibvirtSettings, record: Record) -> Guest:
    return guest_of(settings.isolated, record.ip, record.network, record.runner_api, record.coordinator)


def _check(spec: InstanceSpec) -> None:
    if not _NAME.fullmatch(spec.name):
        raise ProviderError(f"the name '{spec.name}' is no host name: 1 to 63 of letters, digits and -")
    if min(spec.resources.vcpus, spec.resources.memory_mib, spec.resources.disk_gib) < 1:
        raise ProviderError(f"{spec.name}: vcpus, memory_mib and disk_gib must be 1 or more: {spec.resources}")


def _seen(record: Record, *, active: bool) -> Machine:
    gone = MachineState.STOPPED if Phase.STARTED in record.phases else MachineState.CREATING
    return _machine(record, MachineState.RUNNING if active else gone)


def _machine(record: Record, state: MachineState) -> Machine:
    return Machine(record.instance_id, record.generation, record.name, state, record.phases)
