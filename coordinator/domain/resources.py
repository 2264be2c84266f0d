"""Amounts of CPU, memory, disk and devices."""

from collections.abc import Mapping
from typing import Final

import msgspec

_PLENTY: Final = 1_000_000

Devices = tuple[tuple[str, int], ...]
"""How many of each kind of device: sorted by name, without zeros, so that equal amounts are equal and hash alike."""


def devices(counts: Mapping[str, int]) -> Devices:
    return tuple(sorted((name, count) for name, count in counts.items() if count))


class Resources(msgspec.Struct, frozen=True):
    vcpus: int = 0
    memory_mib: int = 0
    disk_gib: int = 0
    devices: Devices = ()

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            self.vcpus + other.vcpus,
            self.memory_mib + other.memory_mib,
            self.disk_gib + other.disk_gib,
            _sum(self.devices, other.devices, 1) if other.devices else self.devices,
        )

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(
            self.vcpus - other.vcpus,
            self.memory_mib - other.memory_mib,
            self.disk_gib - other.disk_gib,
            _sum(self.devices, other.devices, -1) if other.devices else self.devices,
        )

    def holds(self, other: "Resources") -> bool:
        """Whether `other` fits. Who asks for no device is not kept away by devices that are promised too often."""
        return (
            other.vcpus <= self.vcpus
            and other.memory_mib <= self.memory_mib
            and other.disk_gib <= self.disk_gib
            and (not other.devices or not self.lacking(other))
        )

    def lacking(self, other: "Resources") -> Devices:
        """The devices that `other` asks for and of which there are too few."""
        have = dict(self.devices)
        return tuple((name, wanted) for name, wanted in other.devices if wanted > have.get(name, 0))

    def eased_by(self, other: "Resources") -> bool:
        """Whether something has been promised too often of which `other` would give some back."""
        more = dict(other.devices)
        return (
            (self.vcpus < 0 < other.vcpus)
            or (self.memory_mib < 0 < other.memory_mib)
            or (self.disk_gib < 0 < other.disk_gib)
            or any(count < 0 < more.get(name, 0) for name, count in self.devices)
        )

    def times(self, need: "Resources") -> int:
        """How many of `need` fit."""
        fits = [
            have // wanted
            for have, wanted in (
                (self.vcpus, need.vcpus),
                (self.memory_mib, need.memory_mib),
                (self.disk_gib, need.disk_gib),
            )
            if wanted > 0
        ]
        if need.devices:
            have_devices = dict(self.devices)
            fits += [have_devices.get(name, 0) // wanted for name, wanted in need.devices]
        return max(min(fits, default=_PLENTY), 0)

    def short_of(self, other: "Resources") -> str:
        """Which amounts are too small for `other`, for people."""
        parts = []
        if other.vcpus > self.vcpus:
            parts.append(f"{other.vcpus} vCPU wanted, {self.vcpus} free")
        if other.memory_mib > self.memory_mib:
            parts.append(f"{other.memory_mib} MiB memory wanted, {self.memory_mib} free")
        if other.disk_gib > self.disk_gib:
            parts.append(f"{other.disk_gib} GiB disk wanted, {self.disk_gib} free")
        free = dict(self.devices)
        parts += [f"{wanted} {name} wanted, {free.get(name, 0)} free" for name, wanted in self.lacking(other)]
        return "; ".join(parts)


def _sum(these: Devices, those: Devices, sign: int) -> Devices:
    counts = dict(these)
    for name, count in those:
        counts[name] = counts.get(name, 0) + sign * count
    return devices(counts)
