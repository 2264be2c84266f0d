"""PCI devices of this host that machines may be given: which there are, which of them can be, and who gets which.

What the kernel says of them: its documentation "ABI/testing/sysfs-bus-pci" and "VFIO". An IOMMU group is the smallest
set of devices that the hardware keeps apart from all others, so it goes to one machine as a whole or not at all.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from hostler.config import check, check_key, device_name
from hostler.errors import ConfigError
from providers.contract import DeviceUnavailable

_ADDRESS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_ID: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")
_SYSFS: Final = Path("/sys")
_PCI_BRIDGE: Final = "0x0604"  # VFIO leaves these to the kernel's own driver

_log = structlog.get_logger(__name__)


class DeviceKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `[[device]]` table of the agent's configuration: devices that are alike to whoever asks for one."""

    name: str
    addresses: tuple[str, ...] = ()  # 0000:65:00.0
    ids: tuple[str, ...] = ()  # vendor:product, 10de:20b0: all that are found

    def __post_init__(self) -> None:
        check_key("name", lambda: device_name(self.name))
        check(bool(self.addresses or self.ids), "addresses: name some, or vendor:product ids in ids")
        for one in self.addresses:
            check(
                bool(_ADDRESS.fullmatch(one)),
                f"addresses: '{one}' is no PCI address as `lspci -D` prints it: 0000:65:00.0",
            )
        for one in self.ids:
            check(bool(_ID.fullmatch(one)), f"ids: '{one}' is no vendor:product as `lspci -n` prints it: 10de:20b0")


class HostDevices(msgspec.Struct, frozen=True):
    """What can be given to machines: of each kind its devices, each of them all functions that go together."""

    units: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    refused: tuple[str, ...] = ()  # what was asked for and cannot be given, and why, for people

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(units) for name, units in self.units.items()}

    def choose(self, wanted: Mapping[str, int], taken: Collection[str]) -> tuple[str, ...]:
        """The functions of that many devices, none of which is taken.

        Raises:
            DeviceUnavailable: there are too few.
        """
        chosen: list[str] = []
        for name, count in sorted(wanted.items()):
            units = self.units.get(name, ())
            free = [unit for unit in units if not set(unit) & set(taken)]
            if len(free) < count:
                raise DeviceUnavailable(
                    f"{count} {name} wanted, {len(free)} free of this host's {len(units)}",
                    hint="`hostler-agent --check` says of each [[device]] whether machines can have it",
                )
            chosen += [function for unit in free[:count] for function in unit]
        return tuple(chosen)


def find(kinds: Sequence[DeviceKind], sysfs: Path = _SYSFS) -> HostDevices:
    """Look for all that is configured. Reads the kernel only."""
    bus = _Bus(sysfs)
    units: dict[str, tuple[tuple[str, ...], ...]] = {}
    refused: list[str] = []
    owner: dict[str, str] = {}  # function to the kind that has it
    for kind in kinds:
        by_id = {id_: bus.with_id(id_) for id_ in kind.ids}
        refused += [
            f"device '{kind.name}': there is no PCI device with the id {id_}"
            for id_, there in by_id.items()
            if not there
        ]
        found: list[tuple[str, ...]] = []
        for address in dict.fromkeys([*kind.addresses, *(one for there in by_id.values() for one in there)]):
            if owner.get(address) == kind.name:
                continue  # goes along with another function
            try:
                unit = bus.unit(address)
                _of_nobody(unit, owner)
            except DeviceUnavailable as error:
                refused.append(f"device '{kind.name}': {address} cannot be given to machines: {error}")
            else:
                owner |= dict.fromkeys(unit, kind.name)
                found.append(unit)
        units[kind.name] = tuple(sorted(found))
    return HostDevices(units, tuple(refused))


def _of_nobody(unit: Collection[str], owner: Mapping[str, str]) -> None:
    for function in unit:
        if function in owner:
            raise DeviceUnavailable(f"{function} is of the device '{owner[function]}' already")


def usable(kinds: Sequence[DeviceKind], sysfs: Path = _SYSFS) -> HostDevices:
    """As `find`; what is refused is logged: a broken card must not keep its whole host from working."""
    found = find(kinds, sysfs)
    for reason in found.refused:
        _log.error("device_refused", reason=reason)
    return found


def check_devices(kinds: Sequence[DeviceKind], sysfs: Path = _SYSFS) -> None:
    """
    Raises:
        ConfigError: some device cannot be given to machines.
    """
    refused = find(kinds, sysfs).refused
    if refused:
        raise ConfigError(f"key 'device': {'; '.join(refused)}", hint="mend it, or take it out of [[device]]")


class _Bus:
    """The kernel's view of PCI."""

    def __init__(self, sysfs: Path) -> None:
        self._devices = sysfs / "bus/pci/devices"

    def with_id(self, id_: str) -> list[str]:
        """Addresses of all functions of a vendor and product."""
        vendor, product = id_.split(":")
        return [
            one
            for one in self._all()
            if (self._read(one, "vendor"), self._read(one, "device")) == (f"0x{vendor}", f"0x{product}")
        ]

    def unit(self, address: str) -> tuple[str, ...]:
        """The function and those of its slot that its group ties to it.

        Raises:
            DeviceUnavailable: it is not there, no IOMMU keeps it apart, or it is tied to something else.
        """
        if not (self._devices / address).exists():
            raise DeviceUnavailable("there is no such device (`lspci -D` prints those that there are)")
        if self._is_bridge(address):
            raise DeviceUnavailable("it is a PCI bridge")
        group = self._devices / address / "iommu_group"
        if not group.exists():
            raise DeviceUnavailable(
                "no IOMMU keeps it from the host's memory; "
                "turn VT-d, AMD-Vi or SMMU on in the firmware and, with Intel, boot Linux with intel_iommu=on"
            )
        members = sorted(entry.name for entry in (group / "devices").iterdir())
        together = [one for one in members if not self._is_bridge(one)]
        foreign = [one for one in together if _slot(one) != _slot(address)]
        if foreign:
            raise DeviceUnavailable(
                f"its IOMMU group {group.resolve().name} holds other devices too ({', '.join(foreign)}), "
                "and a group goes to one machine as a whole; another slot or firmware setting (ACS) may part them"
            )
        return tuple(together)

    def _all(self) -> list[str]:
        return sorted(entry.name for entry in self._devices.iterdir()) if self._devices.exists() else []

    def _is_bridge(self, address: str) -> bool:
        return self._read(address, "class").startswith(_PCI_BRIDGE)

    def _read(self, address: str, name: str) -> str:
        try:
            return (self._devices / address / name).read_text(encoding="ascii").strip().lower()
        except OSError:
            return ""


def _slot(address: str) -> str:
    return address.rpartition(".")[0]
