"""The libvirt provider: machines as transient QEMU domains on this host. Its settings load without libvirt."""

from typing import TYPE_CHECKING

from providers.libvirt.settings import ImageFile, LibvirtSettings

if TYPE_CHECKING:
    from providers.libvirt.provider import LibvirtProvider

__all__ = ["ImageFile", "LibvirtProvider", "LibvirtSettings"]


def __getattr__(name: str) -> object:
    """Load the provider, and with it libvirt's binding, only where it is asked for."""
    if name == "LibvirtProvider":
        from providers.libvirt.provider import LibvirtProvider  # noqa: PLC0415 (an agent without libvirt reads settings)

        return LibvirtProvider
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
