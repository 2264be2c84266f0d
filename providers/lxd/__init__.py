"""The LXD provider: virtual machines and system containers of LXD on this host. Its settings load without pylxd."""

from typing import TYPE_CHECKING

from providers.lxd.settings import LxdSettings

if TYPE_CHECKING:
    from providers.lxd.provider import LxdProvider

__all__ = ["LxdProvider", "LxdSettings"]


def __getattr__(name: str) -> object:
    """Load the provider, and with it pylxd, only where it is asked for."""
    if name == "LxdProvider":
        from providers.lxd.provider import LxdProvider  # noqa: PLC0415 (an agent without LXD reads settings)

        return LxdProvider
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
