"""The contract of every provider and the values that cross it."""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import msgspec

from hostler.errors import HostlerError
from hostler.network import NetworkAccess
from hostler.phases import Phase as Phase
from providers.images.values import BaseFile, ImageSource


class Arch(StrEnum):
    AMD64 = "amd64"
    ARM64 = "arm64"


class MachineState(StrEnum):
    CREATING = "creating"
    RUNNING = "running"
    STOPPED = "stopped"


class Resources(msgspec.Struct, frozen=True):
    vcpus: int
    memory_mib: int
    disk_gib: int
    devices: dict[str, int] = {}  # of the host, by the name of their kind; passed through to one machine at a time


class Bootstrap(msgspec.Struct, frozen=True):
    """What the guest is told. Holds a secret: its repr shows none."""

    metadata_url: str
    callback_url: str
    token: str
    user_data: bytes = b""  # cloud-init user data, for images that run cloud-init

    def __repr__(self) -> str:
        return f"Bootstrap(metadata_url={self.metadata_url!r}, callback_url={self.callback_url!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("metadata_url", self.metadata_url), ("callback_url", self.callback_url)]


class Driver(msgspec.Struct, frozen=True):
    """One way of making machines, as pools name it and hosts offer it."""

    name: str  # libvirt, lxd, lxd-container, simulated
    acceleration: str  # kvm, tcg or none
    images: tuple[str, ...]  # what can be booted in this way without the coordinator's catalogue
    fetches: bool = False  # takes `InstanceSpec.base`: images of the catalogue
    emulated: Mapping[Arch, tuple[str, ...]] = {}  # architectures besides the host's own, and their images as above
    passes_devices: bool = False  # takes `Resources.devices`


class InstanceSpec(msgspec.Struct, frozen=True):
    """One instance to be made, as an agent's provider gets it."""

    instance_id: str  # UUID
    generation: int
    name: str
    image: str
    resources: Resources
    arch: Arch
    pool_id: str
    bootstrap: Bootstrap
    driver: str = ""  # one of the provider's drivers; it matters to those that have several
    network: NetworkAccess = NetworkAccess()
    source: ImageSource | None = None  # of the catalogue; None: the host's own configuration has the image
    base: BaseFile | None = None  # made of the source; the provider makes a hard link to hold it


class Machine(msgspec.Struct, frozen=True):
    """One machine that the provider holds, whatever its state."""

    instance_id: str
    generation: int
    name: str
    state: MachineState
    phases: dict[Phase, datetime] = {}


Report = Callable[[Phase], None]
"""Told of each phase as it is reached. Never blocks, never raises."""


class Provider(Protocol):
    """Makes and destroys machines. Safe to call concurrently for different instances.

    `create` and `delete` of one instance may be repeated at any time, also after a crash in the middle.
    """

    async def create(self, spec: InstanceSpec, report: Report) -> Machine:
        """Make the machine and start it; an existing one of the same id is taken as it is.

        Raises:
            ProviderError: nothing of the instance is left behind.
        """
        ...

    async def delete(self, instance_id: str) -> None:
        """Destroy the machine and everything that was made for it. Absent already: fine.

        Raises:
            ProviderError: something is left; calling again goes on.
        """
        ...

    async def inventory(self) -> list[Machine]:
        """Everything the provider holds of Hostler's."""
        ...


class HostProvider(Provider, Protocol):
    """A provider as the agent uses it: machines on this very host."""

    on_lost: Callable[[str], None]
    """Called on the event loop, with the reason, when the hypervisor goes away; it is tried again by itself."""

    @property
    def drivers(self) -> list[Driver]:
        """What this host offers; known after `open`, and as new as the last inventory."""
        ...

    @property
    def devices(self) -> dict[str, int]:
        """How many devices of each kind machines may be given; known after `open`."""
        ...

    async def open(self, on_stopped: Callable[[str], None]) -> None:
        """Connect and prepare; `on_stopped(instance_id)` is called on the event loop when a machine powers off or dies.

        Raises:
            ProviderError: the hypervisor cannot be used.
        """
        ...

    async def console(self, instance_id: str, limit_bytes: int) -> tuple[bytes, bool]:
        """The end of the machine's console and whether its beginning was left out. No machine: empty."""
        ...

    async def close(self) -> None:
        """Let go of the hypervisor; machines keep running."""
        ...


class ProviderError(HostlerError):
    """A provider could not do what it was asked."""

    code: ClassVar[str] = "provider_failed"


class ImageUnavailable(ProviderError):
    """The image cannot be had on this host."""

    code = "image_unavailable"


class DeviceUnavailable(ProviderError):
    """No device of a kind that is asked for is free on this host."""

    code = "device_unavailable"


class HypervisorUnavailable(ProviderError):
    """The hypervisor does not answer or refuses us."""

    code = "hypervisor_unavailable"
