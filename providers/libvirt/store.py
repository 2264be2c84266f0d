"""One directory per instance: what is in it, and the record of how far the instance has come.

<root>/<instance id>/  state.json    the record, without secrets; written before a phase is reported
                       base.qcow2    where the image is of the catalogue, a link that keeps it
                       disk.qcow2    the overlay on the image
                       seed.iso      what the guest is told, with its secret
                       console.log   and console.log.0 … when virtlogd has rotated it
"""

import shutil
import threading
import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import msgspec
import structlog

from hostler.network import NetworkAccess
from providers.addresses import lowest_free
from providers.contract import Arch, InstanceSpec, Phase, ProviderError, Resources
from providers.pci import HostDevices

# QEMU's own user must get through to the disk, and nobody needs to list.
_DIRECTORY_MODE: Final = 0o711

_NO_DEVICES: Final = HostDevices()

_log = structlog.get_logger(__name__)


class Record(msgspec.Struct, frozen=True):
    """An instance as its directory knows it."""

    instance_id: str
    generation: int
    name: str
    image: str
    resources: Resources
    arch: Arch
    pool_id: str
    address: str
    network: NetworkAccess = NetworkAccess()
    runner_api: tuple[str, ...] = ()  # where it is called, as entries of an allow list
    coordinator: tuple[str, ...] = ()  # addresses that the agent called when it was made
    functions: tuple[str, ...] = ()  # PCI addresses of the host's devices that it has
    phases: dict[Phase, datetime] = {}

    @property
    def ip(self) -> IPv4Address:
        return IPv4Address(self.address)


class Folder(msgspec.Struct, frozen=True):
    """The paths of one instance."""

    path: Path

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def disk(self) -> Path:
        return self.path / "disk.qcow2"

    @property
    def base(self) -> Path:
        return self.path / "base.qcow2"

    @property
    def seed(self) -> Path:
        return self.path / "seed.iso"

    @property
    def console(self) -> Path:
        return self.path / "console.log"

    @property
    def firmware_variables(self) -> Path:
        return self.path / "firmware.fd"


class Store:
    """The instances' directories. Blocks; safe to call from several threads for different instances."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._giving_addresses = threading.Lock()

    def prepare(self) -> None:
        """Make the root; refuses one that cannot be written, now rather than at the first job."""
        self.root.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        trial = self.root / ".trial"
        trial.write_bytes(b"")
        trial.unlink()

    def folder(self, instance_id: str) -> Folder:
        """Where an instance lives; the id is checked, because it becomes a path."""
        if not is_uuid(instance_id):
            raise ProviderError(f"instance id '{instance_id}' is not a UUID in its usual form")
        return Folder(self.root / instance_id)

    def begin(
        self,
        spec: InstanceSpec,
        subnet: IPv4Network,
        runner_api: tuple[str, ...] = (),
        devices: HostDevices = _NO_DEVICES,
        in_use: Collection[str] = (),
        coordinator: tuple[str, ...] = (),
    ) -> Record:
        """Make the directory and record the instance as accepted, with an address and devices of its own.

        Args:
            in_use: PCI addresses that somebody has, whatever the records say.
        """
        folder = self.folder(spec.instance_id)
        with self._giving_addresses:
            records = self.records()
            taken = {function for record in records for function in record.functions} | set(in_use)
            functions = devices.choose(spec.resources.devices, taken)
            address = lowest_free(subnet, {record.ip for record in records})
            if address is None:
                raise ProviderError(
                    f"every address of {subnet} is taken by an instance", hint="set a larger [libvirt] subnet"
                )
            record = Record(
                instance_id=spec.instance_id,
                generation=spec.generation,
                name=spec.name,
                image=spec.image,
                resources=spec.resources,
                arch=spec.arch,
                pool_id=spec.pool_id,
                address=str(address),
                network=spec.network,
                runner_api=runner_api,
                coordinator=coordinator,
                functions=functions,
            )
            folder.path.mkdir(mode=_DIRECTORY_MODE)
            return self.reached(record, Phase.ACCEPTED)

    def reached(self, record: Record, phase: Phase) -> Record:
        """Record a phase, for this agent and those after it."""
        updated = msgspec.structs.replace(record, phases=record.phases | {phase: datetime.now(UTC)})
        folder = self.folder(record.instance_id)
        _replace(folder.state, msgspec.json.encode(updated))
        return updated

    def record(self, instance_id: str) -> Record | None:
        """What is recorded; None when there is nothing, or nothing readable (a crash at the very beginning)."""
        try:
            return msgspec.json.decode(self.folder(instance_id).state.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            _log.warning("state_unreadable", instance_id=instance_id, error=str(error))
            return None

    def ids(self) -> list[str]:
        return sorted(entry.name for entry in self.root.iterdir() if is_uuid(entry.name))

    def records(self) -> list[Record]:
        return [record for record in map(self.record, self.ids()) if record is not None]

    def remove(self, instance_id: str) -> None:
        """Remove the directory and everything in it; none there: fine."""
        folder = self.folder(instance_id)
        # virtlogd may rotate the console while the tree is walked: what was made meanwhile goes in the second round.
        for _ in range(2):
            shutil.rmtree(folder.path, ignore_errors=True)
        if folder.path.exists():
            shutil.rmtree(folder.path)


def is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it, also after a crash of ours, finds the old one or the new one.

    It need not outlive the power, since no machine does: a record that is lost with it stands for a machine that never
    ran, which comes to the same. So no create waits for the disk, which it would six times.
    """
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    draft.rename(path)
