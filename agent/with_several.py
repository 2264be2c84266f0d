"""The agent's configuration with several drivers. What each of them adds stays its own."""

from collections.abc import Mapping
from itertools import combinations

from agent.config import AgentConfig
from agent.held import Records
from agent.several import Part, Several
from hostler.errors import ConfigError
from providers.contract import HostProvider
from providers.images.store import Finish, kept_as_it_is


class SeveralConfig(AgentConfig, frozen=True, kw_only=True):
    parts: Mapping[str, AgentConfig]  # by the name of their table; all have the shared keys, and the same

    def kept_for_images(self, disk_gib: int) -> int:
        return max(part.kept_for_images(disk_gib) for part in self.parts.values())

    @property
    def finish_image(self) -> Finish:
        found = (part.finish_image for part in self.parts.values())
        return next((finish for finish in found if finish is not kept_as_it_is), kept_as_it_is)

    def check_files(self) -> None:
        for part in self.parts.values():
            part.check_files()

    def check_devices(self) -> None:
        for part in self.parts.values():
            part.check_devices()

    def make_provider(self, others: tuple[AgentConfig, ...] = ()) -> HostProvider:
        parts = []
        for name, config in self.parts.items():
            rest = tuple(other for other in self.parts.values() if other is not config)
            parts.append(Part(name, config.make_provider((*others, *rest)), config.driver_names))
        return Several(parts, Records(self.data_path / "held"))


def combined(configs: Mapping[str, AgentConfig]) -> SeveralConfig:
    """
    Raises:
        ConfigError: they are in each other's way.
    """
    for (name, one), (other_name, other) in combinations(configs.items(), 2):
        if one.network is None or other.network is None:
            continue
        if one.network.bridge == other.network.bridge:
            raise ConfigError(
                f"key '{other_name}.network': [{name}] has the bridge '{one.network.bridge}' already",
                hint="each driver needs a network of its own",
            )
        if one.network.subnet.overlaps(other.network.subnet):
            raise ConfigError(
                f"key '{other_name}.subnet': {other.network.subnet} overlaps {one.network.subnet} of [{name}]",
                hint="each driver needs a subnet of its own",
            )
    shared = next(iter(configs.values()))
    return SeveralConfig(**{key: getattr(shared, key) for key in AgentConfig.__struct_fields__}, parts=configs)
