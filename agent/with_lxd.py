"""The agent's configuration with the LXD provider. Imported only when asked for: needs pylxd."""

from agent.config import AgentConfig
from hostler.errors import ConfigError
from providers.contract import HostProvider
from providers.lxd import LxdProvider, LxdSettings


class LxdConfig(AgentConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    lxd: LxdSettings

    def check_files(self) -> None:
        path = self.lxd.socket_path
        if not path.is_socket():
            raise ConfigError(
                f"key 'lxd.socket': there is no socket {path}", hint="see that LXD is installed and runs, or set it"
            )

    def kept_for_images(self, disk_gib: int) -> int:
        return 0

    def make_provider(self) -> HostProvider:
        # Not where libvirt's machines are: each takes what it does not know there for what a crash left of its own.
        return LxdProvider(self.lxd, self.data_path / "lxd")


CONFIG = LxdConfig
