"""The `[lxd]` table of the agent's configuration."""

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import msgspec

from hostler.config import check, check_key
from providers.addresses import private_subnet
from providers.isolation import Network

# Where the snap and Debian's package have their socket.
SOCKETS: Final = ("/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket")

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BRIDGE: Final = re.compile(r"[a-z][a-z0-9-]{1,14}")  # an interface's name has 15 characters at most


class LxdSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this host's LXD is used. A network serves one agent, which alone gives out its addresses."""

    socket: str = ""  # default: the first of SOCKETS that is there
    project: str = "hostler"
    storage_pool: str = "default"
    network: str = "hostler-lxd"
    subnet: str = "10.214.0.0/22"
    profiles: tuple[str, ...] = ()  # of the project; what an instance needs itself wins over them

    def __post_init__(self) -> None:
        check(not self.socket or Path(self.socket).is_absolute(), f"socket: '{self.socket}' must be an absolute path")
        _check_name("project", self.project)
        _check_name("storage_pool", self.storage_pool)
        check(
            bool(_BRIDGE.fullmatch(self.network)),
            f"network: '{self.network}' must be 2 to 15 of a-z, 0-9 and -, beginning with a letter",
        )
        check_key("subnet", lambda: private_subnet(self.subnet))
        for profile in self.profiles:
            _check_name("profiles", profile)

    @property
    def socket_path(self) -> Path:
        if self.socket:
            return Path(self.socket)
        return next((path for path in map(Path, SOCKETS) if path.exists()), Path(SOCKETS[-1]))

    @property
    def addresses(self) -> IPv4Network:
        return private_subnet(self.subnet)

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's own address, where guests find router and DNS."""
        return self.addresses[1]

    @property
    def isolated(self) -> Network:
        """The network as the packet filter knows it."""
        return Network(self.network, self.addresses, self.gateway)


def _check_name(key: str, value: str) -> None:
    check(bool(_NAME.fullmatch(value)), f"{key}: '{value}' must be letters, digits and ._- (63 at most)")
