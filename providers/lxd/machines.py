"""Making, finding and destroying one instance, step by step. Blocks: runs in the hypervisor's threads."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
import requests
import structlog
from pylxd import Client
from pylxd.exceptions import ClientConnectionFailed, LXDAPIException
from ws4py.exc import WebSocketException

from providers.addresses import lowest_free
from providers.contract import DeviceUnavailable, InstanceSpec, Machine, MachineState, Phase, ProviderError, Report
from providers.isolation import Coordinator, Firewall, Guest, guest_of, port_name, runner_api
from providers.libvirt.console import tail
from providers.lxd import api, catalogue, images, links, request, tags
from providers.lxd.consoles import Consoles
from providers.lxd.folders import Folders
from providers.lxd.settings import LxdSettings
from providers.seed import Link, seed_files, write_seed

# cloud-init's NoCloud data source looks here; `hostler.env` lies beside its files, as on a virtual machine's seed.
SEED_FOLDER: Final = PurePosixPath("/var/lib/cloud/seed/nocloud")
_CONSOLE: Final = "console.log"
# LXD makes a CD drive of what is called .iso, for which not every small kernel has a driver.
_SEED: Final = "seed.img"
_NAME: Final = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # LXD's rule for names

_log = structlog.get_logger(__name__)


class Held(msgspec.Struct, frozen=True):
    """An instance of ours, and what it says of itself."""

    instance: api.Instance
    tags: tags.Tags

    @property
    def address(self) -> IPv4Address | None:
        return self.instance.address

    @property
    def rebooted(self) -> bool:
        """Started again after we had started it: it was to be used once."""
        started = self.tags.phases.get(Phase.STARTED)
        return started is not None and self.instance.last_used_at > started

    @property
    def is_alive(self) -> bool:
        return self.instance.is_running and not self.rebooted

    @property
    def machine(self) -> Machine:
        if self.is_alive and Phase.STOPPED not in self.tags.phases:
            state = MachineState.RUNNING
        else:
            state = MachineState.STOPPED if Phase.STARTED in self.tags.phases else MachineState.CREATING
        return Machine(self.tags.instance_id, self.tags.generation, self.instance.name, state, self.tags.phases)


class Machines:
    """What the provider does, without its concurrency: calls for one instance must not overlap."""

    def __init__(
        self,
        settings: LxdSettings,
        directory: Path,
        firewall: Firewall,
        coordinator: Coordinator,
        watch: Callable[[str, int], None],
    ) -> None:
        """`watch`: told of each virtual machine by its name, and of the process that it is."""
        self._settings = settings
        self._firewall = firewall
        self._coordinator = coordinator
        self._watch = watch
        self._owner = str(directory)
        self._folders = Folders(directory)
        self._consoles = Consoles()
        self._names: dict[str, str] = {}  # of the instances known, by id
        self._promised: dict[str, IPv4Address] = {}  # to instances that LXD may not know yet
        self._giving_addresses = threading.Lock()
        self._adding_images = threading.Lock()
        self.unfinished: set[str] = set()  # failed creates whose traces could not be removed yet

    def create(self, client: Client, spec: InstanceSpec, report: Report) -> Machine:
        held = self._find(client, spec.instance_id)
        if held is not None and held.machine.state is not MachineState.CREATING:
            return held.machine
        _check(spec)
        self.clear(client, spec.instance_id)
        with self._undone_on_failure(client, spec.instance_id), self._address(client, spec.instance_id) as address:
            fingerprint = self._image(client, spec)
            called_at = runner_api(spec.bootstrap, spec.network)
            called_by_us = self._coordinator.addresses()
            accepted = datetime.now(UTC)
            report(Phase.ACCEPTED)
            told = tags.tags_for(spec, self._owner, called_at, called_by_us, accepted)
            self._make(client, spec, fingerprint, address, told)
            disk = datetime.now(UTC)
            report(Phase.DISK)
            self._firewall.admit(spec.instance_id, self._guest(address, told))
            api.start(client, spec.name)
            reached = {Phase.DISK: disk, Phase.STARTED: datetime.now(UTC)}
            api.set_keys(client, spec.name, tags.written_phases(reached) | request.without_cloud_init())
            report(Phase.STARTED)
            self._attach(client, spec.instance_id, spec.name)
        phases = {Phase.ACCEPTED: accepted} | reached
        return Machine(spec.instance_id, spec.generation, spec.name, MachineState.RUNNING, phases)

    def clear(self, client: Client, instance_id: str) -> None:
        """Destroy whatever there is of an instance, and see that it is gone."""
        folder = self._folders.of(instance_id)
        held = self._find(client, instance_id)
        if held is not None:
            api.stop(client, held.instance.name)
            # Before its address may be another's.
            self._firewall.forget(instance_id)
            api.delete(client, held.instance.name)
            if self._find(client, instance_id) is not None:
                raise ProviderError(f"LXD's instance '{held.instance.name}' is still there after it was deleted")
            links.remove(held.instance.port)
        self._firewall.forget(instance_id)
        self._names.pop(instance_id, None)
        self._folders.remove(folder)
        self.unfinished.discard(instance_id)

    def undo(self, client: Client, instance_id: str) -> None:
        """Leave the first error to be told: what cannot be removed now is removed when LXD is back."""
        try:
            self.clear(client, instance_id)
        except (ProviderError, OSError, LXDAPIException, ClientConnectionFailed, requests.RequestException) as error:
            self.unfinished.add(instance_id)
            _log.warning("create_not_undone", instance_id=instance_id, error=str(error))

    def inventory(self, client: Client) -> list[Machine]:
        return [held.machine for held in self._all(client)]

    def note_end(self, client: Client, instance_id: str) -> bool:
        """Record that a started instance has ended; False when that was known, or is not so."""
        held = self._find(client, instance_id)
        if held is None:  # somebody else deleted it
            return self._names.pop(instance_id, None) is not None
        if Phase.STARTED not in held.tags.phases or held.is_alive:
            return False
        if held.instance.is_running:
            api.stop(client, held.instance.name)
        if Phase.STOPPED in held.tags.phases:
            return False
        self._reached(client, held, Phase.STOPPED)
        return True

    def guests(self, client: Client) -> dict[str, Guest]:
        """Whom the packet filter must admit, by what LXD holds."""
        return {
            held.tags.instance_id: self._guest(held.address, held.tags)
            for held in self._all(client)
            if held.address is not None
        }

    def adopt(self, client: Client) -> None:
        """Bring the tags in line with the instances, after a time in which nobody watched them."""
        mine = self._all(client)
        for held in mine:
            if Phase.STARTED in held.tags.phases:
                self.note_end(client, held.tags.instance_id)
            elif held.instance.is_running:
                self._reached(client, held, Phase.STARTED)
        self._folders.keep_only({held.tags.instance_id for held in mine})

    def attach_consoles(self, client: Client) -> None:
        """Go on keeping what virtual machines say, after a time in which nobody did."""
        for held in self._all(client):
            if held.machine.state is MachineState.RUNNING:
                self._attach(client, held.tags.instance_id, held.instance.name)

    def console(self, client: Client, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]:
        folder = self._folders.of(instance_id)
        if folder.exists():
            return tail(folder / _CONSOLE, limit_bytes)
        held = self._find(client, instance_id)
        whole = b"" if held is None else api.console(client, held.instance.name)
        return whole[max(0, len(whole) - limit_bytes) :], len(whole) > limit_bytes

    def close(self) -> None:
        self._consoles.close()

    def ids(self, client: Client) -> list[str]:
        return sorted({*self._names, *(held.tags.instance_id for held in self._all(client))})

    def id_of(self, name: str) -> str | None:
        """Of an instance that is known; asks nobody."""
        return next((instance_id for instance_id, known in self._names.items() if known == name), None)

    def _guest(self, address: IPv4Address, told: tags.Tags) -> Guest:
        return guest_of(self._settings.isolated, address, told.network, told.runner_api, told.coordinator)

    def _image(self, client: Client, spec: InstanceSpec) -> str:
        if spec.base is None or spec.source is None:
            return images.find(client, spec)
        self._folders.hold(spec.instance_id, spec.base.path)
        with self._adding_images:  # once, however many wait for it
            return catalogue.ensure(client, spec, spec.source, spec.base)

    def _make(self, client: Client, spec: InstanceSpec, fingerprint: str, address: IPv4Address, own: tags.Tags) -> None:
        link = Link(address, self._settings.addresses, self._settings.gateway)
        files = seed_files(spec, link)
        is_container = spec.driver == request.CONTAINERS
        seed = None
        if not is_container:
            seed = self._folders.make(spec.instance_id) / _SEED
            write_seed(files, seed)
        plan = request.Plan(
            tags=own,
            name=spec.name,
            driver=spec.driver,
            fingerprint=fingerprint,
            resources=spec.resources,
            storage_pool=self._settings.storage_pool,
            network=self._settings.network,
            port=port_name(self._settings.isolated, address),
            address=address,
            profiles=self._settings.profiles,
            seed=seed,
            user_data=files["user-data"].decode(),
            network_config=files["network-config"].decode(),
        )
        api.create(client, request.create_body(plan))
        self._names[spec.instance_id] = spec.name
        if is_container:
            api.put_files(client, spec.name, SEED_FOLDER, files)

    def _attach(self, client: Client, instance_id: str, name: str) -> None:
        """Virtual machines only; one whose console cannot be had is used all the same."""
        folder = self._folders.of(instance_id)
        if not folder.exists():
            return
        try:
            self._watch(name, api.process(client, name))
            self._consoles.attach(client, name, folder / _CONSOLE)
        except (LXDAPIException, WebSocketException, OSError) as error:
            _log.warning("console_not_attached", instance_id=instance_id, error=str(error))

    def _reached(self, client: Client, held: Held, phase: Phase) -> None:
        keys = tags.written_phases({phase: datetime.now(UTC)}) | request.without_cloud_init()
        api.set_keys(client, held.instance.name, keys)

    def _all(self, client: Client) -> list[Held]:
        found = [held for held in map(self._held, api.instances(client)) if held is not None]
        self._names |= {held.tags.instance_id: held.instance.name for held in found}
        return found

    def _find(self, client: Client, instance_id: str) -> Held | None:
        name = self._names.get(instance_id)
        instance = api.instance(client, name) if name is not None else None
        held = self._held(instance) if instance is not None else None
        if held is not None and held.tags.instance_id == instance_id:
            return held
        everything = map(self._held, api.instances(client))
        return next((one for one in everything if one is not None and one.tags.instance_id == instance_id), None)

    def _held(self, instance: api.Instance) -> Held | None:
        read = tags.read(instance.config)
        return Held(instance, read) if read is not None and read.owner == self._owner else None

    @contextmanager
    def _address(self, client: Client, instance_id: str) -> Iterator[IPv4Address]:
        """An address that no other instance of the project has or is about to have."""
        with self._giving_addresses:
            known = (instance.address for instance in api.instances(client))
            taken = {address for address in known if address} | set(self._promised.values())
            address = lowest_free(self._settings.addresses, taken)
            if address is None:
                raise ProviderError(
                    f"every address of {self._settings.subnet} is taken by an instance",
                    hint="set a larger [lxd] subnet",
                )
            self._promised[instance_id] = address
        try:
            yield address
        finally:
            del self._promised[instance_id]

    @contextmanager
    def _undone_on_failure(self, client: Client, instance_id: str) -> Iterator[None]:
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                self.undo(client, instance_id)


def _check(spec: InstanceSpec) -> None:
    request.instance_type(spec.driver)
    if not _NAME.fullmatch(spec.name):
        raise ProviderError(
            f"the name '{spec.name}' is none for LXD: 1 to 63 of letters, digits and -, beginning with a letter"
        )
    if spec.resources.devices:
        raise DeviceUnavailable(
            f"{spec.name}: machines of {spec.driver} get no devices of the host", hint="use a pool of libvirt"
        )
    if min(spec.resources.vcpus, spec.resources.memory_mib, spec.resources.disk_gib) < 1:
        raise ProviderError(f"{spec.name}: vcpus, memory_mib and disk_gib must be 1 or more: {spec.resources}")
