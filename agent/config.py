"""The agent's configuration: its keys, their defaults and what is allowed. What a driver adds lives in with_*.py, what
several of them need in with_several.py.
"""

import importlib
import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import msgspec

from agent.host import Reserve
from agent.pressure import Low
from hostler.config import check, check_key, convert, document, host_and_port, host_name
from hostler.errors import ConfigError
from providers.contract import HostProvider
from providers.images.store import Finish, Room, kept_as_it_is
from providers.isolation.rules import Network

# Modules are imported only when asked for: a host without libvirt's bindings need not have them.
_MODULES: Final = {"libvirt": "agent.with_libvirt", "lxd": "agent.with_lxd", "simulated": "agent.with_simulated"}

# Beyond these a host that is full by our books is so overloaded that its machines fail.
_MOST_OVERCOMMIT: Final = {"cpu_overcommit": 32.0, "memory_overcommit": 4.0, "disk_overcommit": 16.0}


class HostSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = msgspec.field(default_factory=socket.gethostname)

    def __post_init__(self) -> None:
        check_key("name", lambda: host_name(self.name))


class CoordinatorSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str = ""  # empty: what the host was told when it was enrolled; where it was not, 127.0.0.1:9998

    def __post_init__(self) -> None:
        if self.address:
            check_key("address", self._check_address)

    def _check_address(self) -> None:
        _, port = host_and_port(self.address)
        check(port > 0, "the port must be from 1 to 65535")


class CapacitySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept for the host itself, how often the rest may be promised, and when the host takes nothing more."""

    reserved_vcpus: int = 0
    reserved_memory_mib: int = 1024
    reserved_disk_gib: int = 10
    cpu_overcommit: float = 1.0
    memory_overcommit: float = 1.0
    disk_overcommit: float = 1.0
    low_memory_mib: int = 512
    low_disk_gib: int = 5

    def __post_init__(self) -> None:
        for name in ("reserved_vcpus", "reserved_memory_mib", "reserved_disk_gib", "low_memory_mib", "low_disk_gib"):
            check(getattr(self, name) >= 0, f"{name}: must be 0 or more")
        for name, most in _MOST_OVERCOMMIT.items():
            check(1.0 <= getattr(self, name) <= most, f"{name}: must be from 1.0 to {most}")

    @property
    def reserve(self) -> Reserve:
        return Reserve(
            vcpus=self.reserved_vcpus,
            memory_mib=self.reserved_memory_mib,
            disk_gib=self.reserved_disk_gib,
            cpu_overcommit=self.cpu_overcommit,
            memory_overcommit=self.memory_overcommit,
            disk_overcommit=self.disk_overcommit,
        )

    @property
    def low(self) -> Low:
        return Low(memory_mib=self.low_memory_mib, disk_gib=self.low_disk_gib)


class ImagesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images of the coordinator's catalogue that are kept on this host."""

    quota_gib: int | None = None  # disk that they may take; by default a tenth of what there is, and 10 at least
    largest_gib: int = 64  # one of them: its file, what is unpacked of it, its disk
    file_directories: tuple[str, ...] = ()  # what file:// addresses of the catalogue may name
    ca_file: str = ""  # authorities (PEM) of https servers that are believed besides the system's

    def __post_init__(self) -> None:
        check(self.quota_gib is None or self.quota_gib >= 1, "quota_gib: must be 1 or more")
        check(self.largest_gib >= 1, "largest_gib: must be 1 or more")
        for path in self.file_directories:
            check(Path(path).is_absolute(), f"file_directories: '{path}' must be an absolute path")
        check(
            not self.ca_file or Path(self.ca_file).is_absolute(), f"ca_file: '{self.ca_file}' must be an absolute path"
        )

    def quota(self, disk_gib: int) -> int:
        """GiB of a disk of which instances and images may have `disk_gib`."""
        if self.quota_gib is not None:
            return self.quota_gib
        return max(1, min(max(10, disk_gib // 10), disk_gib // 2))

    def room(self, disk_gib: int) -> Room:
        return Room(
            quota_bytes=self.quota(disk_gib) << 30,
            largest_bytes=self.largest_gib << 30,
            directories=tuple(map(Path, self.file_directories)),
            ca_file=Path(self.ca_file) if self.ca_file else None,
        )

    def check_files(self) -> None:
        for path in self.file_directories:
            if not Path(path).is_dir():
                raise ConfigError(f"key 'images.file_directories': {path} is no directory")
        if self.ca_file and not _has_certificates(Path(self.ca_file)):
            raise ConfigError(f"key 'images.ca_file': {self.ca_file} is no file of certificates (PEM) that can be read")


def _has_certificates(path: Path) -> bool:
    try:
        return b"-----BEGIN CERTIFICATE-----" in path.read_bytes()
    except OSError:
        return False


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys that every driver shares."""

    driver_names: ClassVar[tuple[str, ...]] = ()  # all that its provider may offer to pools

    data_dir: str = "/var/lib/hostler-agent"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    host: HostSection = HostSection()
    coordinator: CoordinatorSection = CoordinatorSection()
    capacity: CapacitySection = CapacitySection()
    images: ImagesSection = ImagesSection()

    def __post_init__(self) -> None:
        check(Path(self.data_dir).is_absolute(), f"data_dir: '{self.data_dir}' must be an absolute path")

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir)

    @property
    def instances_path(self) -> Path:
        return self.data_path / "instances"

    def kept_for_images(self, disk_gib: int) -> int:
        """GiB of the disk that instances are not offered."""
        return self.images.quota(disk_gib)

    @property
    def images_path(self) -> Path:
        """Not where the host's own images usually are."""
        return self.data_path / "catalogue"

    @property
    def finish_image(self) -> Finish:
        """What makes images of the catalogue into what the provider boots from."""
        return kept_as_it_is

    def check_files(self) -> None:
        """Look at what the configuration names.

        Raises:
            ConfigError: something named is not there.
        """
        self.images.check_files()

    def check_devices(self) -> None:
        """Look at the devices that machines are to be given. An agent starts without those that are at fault.

        Raises:
            ConfigError: some cannot be given.
        """

    @property
    def network(self) -> Network | None:
        """What the machines hang on, where they hang on any."""
        return None

    def make_provider(self, others: "tuple[AgentConfig, ...]" = ()) -> HostProvider:
        """The provider, not yet opened. `others`: of the same agent."""
        raise NotImplementedError


def subnets(configs: Iterable[AgentConfig]) -> tuple[IPv4Network, ...]:
    """Those of machines."""
    return tuple(config.network.subnet for config in configs if config.network is not None)


def load(path: Path) -> AgentConfig:
    """Read and validate the agent's configuration file.

    Raises:
        ConfigError: names file, key and what is allowed.
    """
    read = document(path)
    kinds = {name: _kind_for(name, path) for name in _MODULES if name in read}
    if not kinds:
        raise ConfigError(
            f"{path}: one of {', '.join(f'[{name}]' for name in _MODULES)} is needed, or several, found none",
            hint="these tables are the providers that there are",
        )
    configs = {name: convert(_part_of(read, name, kinds), kind, str(path)) for name, kind in kinds.items()}
    if len(configs) == 1:
        return next(iter(configs.values()))
    from agent.with_several import combined  # noqa: PLC0415 - builds on this module, and few hosts need it

    try:
        return combined(configs)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _part_of(read: dict[str, Any], name: str, kinds: Mapping[str, type[AgentConfig]]) -> dict[str, Any]:
    """The document without what other drivers add."""
    of_others = {key for other, kind in kinds.items() if other != name for key in _added(kind)} - _added(kinds[name])
    return {key: value for key, value in read.items() if key not in of_others}


def _added(kind: type[AgentConfig]) -> set[str]:
    return set(kind.__struct_fields__) - set(AgentConfig.__struct_fields__)


def _kind_for(driver: str, path: Path) -> type[AgentConfig]:
    try:
        module = importlib.import_module(_MODULES[driver])
    except ImportError as error:
        raise ConfigError(
            f"{path}: key '{driver}': the {driver} driver cannot be loaded: {error}",
            hint=f"pip install 'hostler[agent,{driver}]'",
        ) from error
    kind: type[AgentConfig] = module.CONFIG
    return kind
