"""Amounts of CPU, memory and disk."""

from typing import Final

import msgspec

_PLENTY: Final = 1_000_000


class Resources(msgspec.Struct, frozen=True):
    vcpus: int = 0
    memory_mib: int = 0
    disk_gib: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.vcpus + other.vcpus, self.memory_mib + other.memory_mib, self.disk_gib + other.disk_gib)

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(self.vcpus - other.vcpus, self.memory_mib - other.memory_mib, self.disk_gib - other.disk_gib)

    def holds(self, other: "Resources") -> bool:
        return other.vcpus <= self.vcpus and other.memory_mib <= self.memory_mib and other.disk_gib <= self.disk_gib

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
        return "; ".join(parts)
