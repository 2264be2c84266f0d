"""The agent's configuration with the LXD provider. Imported only when asked for: needs pylxd."""

from typing import ClassVar

from agent import dial
from agent.config import AgentConfig, subnets
from providers.contract import HostProvider
from providers.images import qemu_img
from providers.images.store import Finish
from providers.isolation import Coordinator, Network
from providers.lxd import LxdProvider, LxdSettings
from providers.lxd.request import TYPES


class LxdConfig(AgentConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    driver_names: ClassVar[tuple[str, ...]] = tuple(TYPES)

    lxd: LxdSettings

    @property
    def finish_image(self) -> Finish:
        return qemu_img.make_base

    @property
    def network(self) -> Network:
        return self.lxd.isolated

    def make_provider(self, others: tuple[AgentConfig, ...] = ()) -> HostProvider:
        # Not where libvirt's machines are: each takes what it does not know there for what a crash left of its own.
        called = Coordinator(lambda: dial.address(self.data_path, self.coordinator))
        return LxdProvider(self.lxd, self.data_path / "lxd", subnets(others), called)


CONFIG = LxdConfig
