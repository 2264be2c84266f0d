"""Whether this host can make machines of another architecture, by QEMU's own translator. Blocks."""

from collections.abc import Iterable
from typing import Final

import libvirt

from providers.contract import Arch, ProviderError
from providers.libvirt.domain import ARM64_FIRMWARE, ARM64_VARIABLES, OS_ARCH, OS_MACHINE, is_host_arch

_PACKAGES: Final = {Arch.AMD64: "qemu-system-x86", Arch.ARM64: "qemu-system-arm qemu-efi-aarch64"}


class CannotEmulate(ProviderError):
    """The configuration asks for an architecture that this host cannot emulate, or need not."""

    code = "cannot_emulate"


def check(conn: libvirt.virConnect, arches: Iterable[Arch]) -> None:
    """
    Raises:
        CannotEmulate: one of them; better told now than by each machine.
    """
    for arch in arches:
        if is_host_arch(arch):
            raise CannotEmulate(
                f"key 'libvirt.emulate': {arch} is this host's own architecture",
                hint="leave it out of the list: libvirt.acceleration says how its own machines run",
            )
        missing = _missing(conn, arch)
        if missing:
            raise CannotEmulate(
                f"key 'libvirt.emulate': this host cannot make {arch} machines: {missing}",
                hint=f"apt-get install {_PACKAGES[arch]}",
            )


def _missing(conn: libvirt.virConnect, arch: Arch) -> str:
    try:
        conn.getDomainCapabilities(None, OS_ARCH[arch], OS_MACHINE[arch], "qemu")
    except libvirt.libvirtError as error:
        if not conn.isAlive():
            raise
        return str(error)
    firmware = (ARM64_FIRMWARE, ARM64_VARIABLES) if arch is Arch.ARM64 else ()
    return ", ".join(f"there is no {path}" for path in firmware if not path.exists())
