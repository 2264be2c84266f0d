"""The `[libvirt]` and `[[image]]` tables of the agent's configuration."""

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Literal

import msgspec

from hostler.config import check, check_key
from providers.addresses import private_subnet
from providers.contract import Arch
from providers.isolation.rules import Network

_URI = re.compile(r"qemu(\+unix)?:///system(\?\S*)?")
_NETWORK = re.compile(r"[a-z][a-z0-9-]{0,13}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


class LibvirtSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this host's libvirt is used. A network serves one agent, which alone gives out its addresses."""

    uri: str = "qemu:///system"
    acceleration: Literal["auto", "kvm", "tcg"] = "auto"
    network: str = "hostler"
    subnet: str = "10.213.0.0/22"
    emulate: tuple[Arch, ...] = ()  # architectures besides the host's own: many times slower, so only where it is said

    def __post_init__(self) -> None:
        check(
            bool(_URI.fullmatch(self.uri)), f"uri: '{self.uri}' is not the system daemon of this host: qemu:///system"
        )
        check(
            bool(_NETWORK.fullmatch(self.network)),
            f"network: '{self.network}' must be 1 to 14 of a-z, 0-9 and -, beginning with a letter",
        )
        check_key("subnet", lambda: private_subnet(self.subnet))

    @property
    def bridge(self) -> str:
        return f"{self.network}0"

    @property
    def isolated(self) -> Network:
        """As the packet filter knows it."""
        return Network(self.bridge, self.addresses, self.gateway)

    @property
    def addresses(self) -> IPv4Network:
        return private_subnet(self.subnet)

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's own address, where guests find router and DNS."""
        return self.addresses[1]


class ImageFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk image (qcow2 or raw) that machines are overlays of: to replace it, rename a new file over it."""

    name: str
    path: str
    arch: Arch = Arch.AMD64

    def __post_init__(self) -> None:
        check(bool(_IMAGE.fullmatch(self.name)), f"name: '{self.name}' must be letters, digits and ._:/-")
        check(Path(self.path).is_absolute(), f"path: '{self.path}' must be absolute")
