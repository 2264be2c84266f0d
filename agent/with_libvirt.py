"""The agent's configuration with the libvirt provider. Imported only when asked for: needs libvirt's bindings."""

from pathlib import Path
from typing import ClassVar

from agent import dial
from agent.config import AgentConfig, subnets
from hostler.config import check
from hostler.errors import ConfigError
from providers.contract import HostProvider
from providers.images import qemu_img
from providers.images.store import Finish
from providers.isolation import Coordinator, Network
from providers.libvirt import ImageFile, LibvirtProvider, LibvirtSettings
from providers.pci import DeviceKind, check_devices


class LibvirtConfig(AgentConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    driver_names: ClassVar[tuple[str, ...]] = ("libvirt",)

    libvirt: LibvirtSettings
    image: tuple[ImageFile, ...] = ()
    device: tuple[DeviceKind, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        keys = [(image.name, image.arch) for image in self.image]
        for name, arch in keys:
            check(
                keys.count((name, arch)) == 1,
                f"image: the name '{name}' for {arch} is given to more than one [[image]]",
            )
        kinds = [kind.name for kind in self.device]
        for name in kinds:
            check(kinds.count(name) == 1, f"device: the name '{name}' is given to more than one [[device]]")

    def check_files(self) -> None:
        super().check_files()
        for image in self.image:
            if not Path(image.path).is_file():
                raise ConfigError(
                    f"key 'image.path': {image.path} of image '{image.name}' is no file", hint="name an existing image"
                )

    def check_devices(self) -> None:
        check_devices(self.device)

    @property
    def finish_image(self) -> Finish:
        return qemu_img.make_base

    @property
    def network(self) -> Network:
        return self.libvirt.isolated

    def make_provider(self, others: tuple[AgentConfig, ...] = ()) -> HostProvider:
        called = Coordinator(lambda: dial.address(self.data_path, self.coordinator))
        return LibvirtProvider(
            self.libvirt, list(self.image), self.instances_path, subnets(others), self.device, called
        )


CONFIG = LibvirtConfig
