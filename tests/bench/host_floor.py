"""What it takes to start machines that nobody manages: no agent can be quicker on the same host at the same moment."""

import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, TypeVar

import libvirt

from providers.addresses import mac_address
from providers.contract import Arch, Resources
from providers.isolation import port_name
from providers.libvirt.domain import Acceleration, DomainPlan, Tag, domain_xml
from providers.libvirt.settings import LibvirtSettings
from tests.bench.results import BenchmarkFailed, Result, shown

T = TypeVar("T")

_URI: Final = "qemu:///system"
_MEMORY_MIB: Final = 64
_FIRST_ADDRESS: Final = 100  # of the subnet: an agent gives out the lowest
_SPEAK: Final = b'{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n'


def measure(folder: Path, image: Path, settings: LibvirtSettings, at_once: int) -> list[Result]:
    """The network of `settings` is up. Blocks."""
    folder.mkdir(mode=0o711)
    disks = [_disk(folder, image) for _ in range(at_once)]
    by_libvirt, bare = _libvirt(disks, image, settings), _bare(disks)
    return [
        shown(f"the host without an agent, {at_once} machines by libvirt at once, worst", by_libvirt * 1000, "ms"),
        shown(f"the host without libvirt, {at_once} QEMUs at once, worst", bare * 1000, "ms"),
    ]


def _disk(folder: Path, image: Path) -> Path:
    made = folder / str(uuid.uuid4()) / "disk.qcow2"
    made.parent.mkdir(mode=0o711)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image), "-F", "raw", str(made), "1G"]
    subprocess.run(command, check=True)
    (made.parent / "seed.iso").write_bytes(bytes(1 << 16))
    return made


def _libvirt(disks: list[Path], image: Path, settings: LibvirtSettings) -> float:
    documents = [_xml(disk, image, settings, number) for number, disk in enumerate(disks)]
    connection = libvirt.open(_URI)
    try:
        return _together(connection.createXML, documents)
    finally:
        for disk in disks:
            _destroy(connection, disk.parent.name)
        connection.close()


def _destroy(connection: libvirt.virConnect, instance_id: str) -> None:
    try:
        connection.lookupByUUIDString(instance_id).destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _xml(disk: Path, image: Path, settings: LibvirtSettings, number: int) -> str:
    """As the provider writes it."""
    address = IPv4Address(int(settings.addresses.network_address) + _FIRST_ADDRESS + number)
    folder = disk.parent
    plan = DomainPlan(
        tag=Tag(folder.name, 1, str(folder.parent)),
        name=f"floor-{folder.name[:8]}",
        arch=Arch.AMD64,
        resources=Resources(vcpus=1, memory_mib=_MEMORY_MIB, disk_gib=1),
        acceleration=Acceleration.TCG,
        disk=disk,
        base=image,
        base_format="raw",
        seed=folder / "seed.iso",
        console=folder / "console.log",
        firmware_variables=folder / "firmware.fd",
        network=settings.network,
        port=port_name(settings.isolated, address),
        mac=mac_address(address),
    )
    return domain_xml(plan)


def _bare(disks: list[Path]) -> float:
    with _qemus() as start:
        return _together(start, disks)


@contextmanager
def _qemus() -> Iterator[Callable[[Path], None]]:
    """What starts one on a disk, and returns when it runs; all are gone afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(disk: Path) -> None:
        command = [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"),
            *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(_MEMORY_MIB)),
            *("-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe"),
            *("-drive", f"file={disk.parent}/seed.iso,if=virtio,format=raw,readonly=on"),
            *("-device", "virtio-rng-pci", "-device", "virtio-balloon-pci"),
        ]
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(one)
        if one.stdin is None or one.stdout is None:
            raise RuntimeError("pipes were asked for")
        one.stdin.write(_SPEAK)
        one.stdin.flush()
        while b'"running": true' not in (line := one.stdout.readline()):
            if not line:
                raise BenchmarkFailed(f"QEMU ended by itself: {one.wait()}")

    try:
        yield start
    finally:
        for one in started:
            one.kill()
            one.communicate()


def _together(start: Callable[[T], object], each: Sequence[T]) -> float:
    """Seconds until the last of them is started."""
    with ThreadPoolExecutor(len(each)) as threads:
        began = time.perf_counter()
        list(threads.map(start, each))
        return time.perf_counter() - began
