"""The domain XML of a machine. Pure: values in, text out.

Element names and defaults: libvirt's domain XML format (formatdomain).
"""

import platform
import re
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import msgspec

from providers.contract import Arch, Resources
from providers.libvirt.xml import element, parse, render

NAMESPACE: Final = "urn:hostler:instance:1"
BALLOON_SECONDS: Final = 10

_QEMU: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
_ASKED_ONE_BY_ONE: Final = "cpu-unavailable-features"  # a name that libvirt keeps for ever, as it does all of these

ET.register_namespace("hostler", NAMESPACE)
ET.register_namespace("qemu", _QEMU)

OS_ARCH: Final = {Arch.AMD64: "x86_64", Arch.ARM64: "aarch64"}
OS_MACHINE: Final = {Arch.AMD64: "q35", Arch.ARM64: "virt"}
# Debian's qemu-efi-aarch64; named outright, because firmware that libvirt picks itself gets its variable store outside
# the instance's directory, where nothing would remove it.
ARM64_FIRMWARE: Final = Path("/usr/share/AAVMF/AAVMF_CODE.fd")
ARM64_VARIABLES: Final = Path("/usr/share/AAVMF/AAVMF_VARS.fd")


def is_host_arch(arch: Arch) -> bool:
    """Only such machines can be accelerated."""
    return platform.machine() == OS_ARCH[arch]


class Acceleration(StrEnum):
    KVM = "kvm"
    TCG = "tcg"


class Tag(msgspec.Struct, frozen=True):
    """What a domain says of itself, so that it is known even when its directory is lost."""

    instance_id: str
    generation: int
    owner: str  # the directory of the provider that made it


class DomainPlan(msgspec.Struct, frozen=True):
    """Everything that the XML depends on."""

    tag: Tag
    name: str
    arch: Arch
    resources: Resources
    acceleration: Acceleration
    disk: Path
    base: Path  # the image that the disk is an overlay of
    base_format: str
    seed: Path
    console: Path
    firmware_variables: Path  # made by libvirt where the machine boots by UEFI
    network: str
    port: str  # the host's side of its link
    mac: str
    functions: tuple[str, ...] = ()  # PCI addresses of the host's devices that it is given


def domain_xml(plan: DomainPlan) -> str:
    """A transient machine for one use: it ends at power-off, reboot and crash."""
    return render(
        element(
            "domain",
            {"type": "kvm" if plan.acceleration is Acceleration.KVM else "qemu"},
            element("name", text=plan.name),
            element("uuid", text=plan.tag.instance_id),
            element("metadata", None, _tag_element(plan.tag)),
            element("memory", {"unit": "MiB"}, text=str(plan.resources.memory_mib)),
            element("vcpu", text=str(plan.resources.vcpus)),
            _boot(plan),
            _features(plan.arch, plan.acceleration),
            element("cpu", {"mode": "host-passthrough" if plan.acceleration is Acceleration.KVM else "maximum"}),
            element("clock", {"offset": "utc"}),
            element("on_poweroff", text="destroy"),
            element("on_reboot", text="destroy"),
            element("on_crash", text="destroy"),
            _devices(plan),
            *_unasked(plan.arch),
        )
    )


def read_tag(metadata: str) -> Tag | None:
    """The tag in what libvirt returns for our namespace; None when it is not one of ours."""
    found = parse(metadata)
    instance_id, generation, owner = (found.get(key) for key in ("id", "generation", "owner"))
    if instance_id is None or generation is None or owner is None or not generation.isdigit():
        return None
    return Tag(instance_id, int(generation), owner)


def _tag_element(tag: Tag) -> ET.Element:
    return element(
        f"{{{NAMESPACE}}}instance", {"id": tag.instance_id, "generation": str(tag.generation), "owner": tag.owner}
    )


def _boot(plan: DomainPlan) -> ET.Element:
    boot = element(
        "os", None, element("type", {"arch": OS_ARCH[plan.arch], "machine": OS_MACHINE[plan.arch]}, text="hvm")
    )
    if plan.arch is Arch.ARM64:
        boot.append(element("loader", {"readonly": "yes", "type": "pflash"}, text=str(ARM64_FIRMWARE)))
        boot.append(element("nvram", {"template": str(ARM64_VARIABLES)}, text=str(plan.firmware_variables)))
    boot.append(element("boot", {"dev": "hd"}))
    return boot


def _unasked(arch: Arch) -> list[ET.Element]:
    """Before it lets an x86 machine run, libvirt asks QEMU for each of some 400 properties of its processor by itself.

    Told that this QEMU cannot answer that, it asks as it did before: for all at once. Nothing is done with the answer:
    our machines take what processor there is. "QEMU command-line passthrough" in libvirt's drvqemu.
    """
    if arch is not Arch.AMD64:
        return []
    return [element(f"{{{_QEMU}}}capabilities", None, element(f"{{{_QEMU}}}del", {"capability": _ASKED_ONE_BY_ONE}))]


def _features(arch: Arch, acceleration: Acceleration) -> ET.Element:
    features = element("features", None, element("acpi"))
    if arch is Arch.AMD64:
        features.append(element("apic"))
    else:
        # Version 2, QEMU's own choice under TCG, ends at 8 processors; KVM can only do what the host's own has.
        features.append(element("gic", {"version": "host" if acceleration is Acceleration.KVM else "3"}))
    return features


def _devices(plan: DomainPlan) -> ET.Element:
    devices = element(
        "devices",
        None,
        _disk(plan.disk, "vda", "qcow2", _Slot.DISK, _base(plan)),
        _disk(plan.seed, "vdb", "raw", _Slot.SEED),
        _interface(plan),
        element("serial", {"type": "file"}, element("source", {"path": str(plan.console), "append": "off"})),
        element("controller", {"type": "usb", "model": "none"}),
        element(
            "rng", {"model": _VIRTIO}, element("backend", {"model": "random"}, text="/dev/urandom"), _at(_Slot.RNG)
        ),
        element(
            "memballoon", {"model": _VIRTIO}, element("stats", {"period": str(BALLOON_SECONDS)}), _at(_Slot.BALLOON)
        ),
    )
    devices.extend(map(_passed, plan.functions))
    if plan.arch is Arch.AMD64:
        # Lets a kernel panic end the machine; the ISA model exists on x86 only.
        devices.append(element("panic", {"model": "isa"}))
    return devices


# What a virtio device on the root bus would be besides, for guests of before 2016: a second interface to attack.
_VIRTIO: Final = "virtio-non-transitional"


class _Slot(IntEnum):
    """Of the root bus, in the order in which guests find them; 1 is left to libvirt, for what it adds by itself."""

    DISK = 2
    SEED = 3
    NETWORK = 4
    RNG = 5
    BALLOON = 6


def _at(slot: _Slot) -> ET.Element:
    """Nothing is ever plugged in or out, so no device needs a port of its own: each would cost a start 2 ms."""
    return element("address", {"type": "pci", "bus": "0x00", "slot": f"{slot:#04x}"})


_ADDRESS: Final = ("domain", "bus", "slot", "function")


def _passed(function: str) -> ET.Element:
    """`managed`: libvirt gives it to vfio-pci before the start, and back to the host's driver after the end."""
    parts = dict(zip(_ADDRESS, re.split("[:.]", function), strict=True))
    address = element("address", {name: f"0x{part}" for name, part in parts.items()})
    return element("hostdev", {"mode": "subsystem", "type": "pci", "managed": "yes"}, element("source", None, address))


def read_functions(domain: str) -> set[str]:
    """The PCI addresses of the host's devices that a domain has, by its XML as libvirt returns it."""
    found = parse(domain).iterfind("devices/hostdev[@type='pci']/source/address")
    numbers = ([int(address.get(name, "0"), 16) for name in _ADDRESS] for address in found)
    return {f"{domain_:04x}:{bus:02x}:{slot:02x}.{function:x}" for domain_, bus, slot, function in numbers}


def _base(plan: DomainPlan) -> ET.Element:
    """libvirt would give the image to QEMU's user, which must be able to read what all machines share, not to write."""
    return element(
        "backingStore",
        {"type": "file"},
        element("format", {"type": plan.base_format}),
        element("source", {"file": str(plan.base)}, element("seclabel", {"model": "dac", "relabel": "no"})),
        element("backingStore"),
    )


def _disk(path: Path, target: str, image_format: str, slot: "_Slot", base: ET.Element | None = None) -> ET.Element:
    """Without a base: read-only."""
    driver = {"name": "qemu", "type": image_format}
    if base is not None:
        # The overlay dies with the machine, so nothing is ever flushed for its sake; and a full host disk gives the
        # guest an I/O error: QEMU's own default would pause it for ever.
        driver |= {"cache": "unsafe", "discard": "unmap", "error_policy": "report"}
    disk = element(
        "disk",
        {"type": "file", "device": "disk", "model": _VIRTIO},
        element("driver", driver),
        element("source", {"file": str(path)}),
    )
    if base is not None:
        disk.append(base)
    disk.append(element("target", {"dev": target, "bus": "virtio"}))
    if base is None:
        disk.append(element("readonly"))
    disk.append(_at(slot))
    return disk


def _interface(plan: DomainPlan) -> ET.Element:
    return element(
        "interface",
        {"type": "network"},
        element("mac", {"address": plan.mac}),
        element("source", {"network": plan.network}),
        element("target", {"dev": plan.port}),
        element("model", {"type": _VIRTIO}),
        element("rom", {"enabled": "no"}),  # no network boot: one second less, and nothing else to boot from
        element("port", {"isolated": "yes"}),
        _at(_Slot.NETWORK),
    )
