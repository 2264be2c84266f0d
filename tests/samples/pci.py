"""A tree as the kernel shows PCI devices and IOMMU groups in /sys."""

from pathlib import Path

import msgspec


class Function(msgspec.Struct, frozen=True):
    address: str
    group: int | None = 1  # None: there is no IOMMU
    id: str = "10de:20b0"
    kind: str = "0x030200"  # class: a 3D controller; 0x060400 is a bridge


def make_sysfs(root: Path, *functions: Function) -> Path:
    for one in functions:
        device = root / "devices/pci0000:00" / one.address
        device.mkdir(parents=True)
        vendor, product = one.id.split(":")
        for name, value in (("vendor", f"0x{vendor}"), ("device", f"0x{product}"), ("class", one.kind)):
            (device / name).write_text(f"{value}\n")
        _link(root / "bus/pci/devices" / one.address, device)
        if one.group is not None:
            group = root / "kernel/iommu_groups" / str(one.group)
            _link(group / "devices" / one.address, device)
            (device / "iommu_group").symlink_to(group)
    return root


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
