"""What `hostler apply` may declare, as it arrives: parsed and checked here, stored by the catalog."""

from functools import partial

from coordinator.declare_base import Declared, changed_declaration, check_name, declaration
from coordinator.declare_entity import (
    EnterpriseDeclaration,
    EntityDeclaration,
    ForgeInstanceDeclaration,
    OrganizationDeclaration,
    RepositoryDeclaration,
)
from coordinator.declare_forge import CredentialsDeclaration, EndpointDeclaration
from coordinator.declare_image import ImageDeclaration
from coordinator.declare_pool import PoolDeclaration, ScaleSetDeclaration
from coordinator.declare_text import ProxyDeclaration, TemplateDeclaration
from coordinator.domain.resources import Resources, devices
from hostler import config
from hostler.config import device_name

__all__ = [
    "CredentialsDeclaration",
    "Declaration",
    "Declared",
    "EndpointDeclaration",
    "EnterpriseDeclaration",
    "EntityDeclaration",
    "FlavorDeclaration",
    "ForgeInstanceDeclaration",
    "ImageDeclaration",
    "OrganizationDeclaration",
    "PoolDeclaration",
    "ProxyDeclaration",
    "RepositoryDeclaration",
    "ScaleSetDeclaration",
    "TemplateDeclaration",
    "changed_declaration",
    "declaration",
]


class FlavorDeclaration(Declared, frozen=True):
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    devices: dict[str, int] = {}  # of the host, by the name that agents give them; each machine has its own

    def __post_init__(self) -> None:
        check_name("name", self.name)
        config.check(1 <= self.vcpus <= 1024, "vcpus: must be 1 to 1024")
        config.check(64 <= self.memory_mib <= 16 * 1024 * 1024, "memory_mib: must be 64 to 16777216")
        config.check(1 <= self.disk_gib <= 65536, "disk_gib: must be 1 to 65536")
        for name, count in self.devices.items():
            config.check_key("devices", partial(device_name, name))
            config.check(1 <= count <= 64, f"devices: of '{name}' 1 to 64 may be asked for, not {count}")

    @property
    def resources(self) -> Resources:
        return Resources(self.vcpus, self.memory_mib, self.disk_gib, devices(self.devices))


class Declaration(Declared, frozen=True):
    """A whole document: every table is optional, nothing that is left out is removed."""

    endpoint: list[EndpointDeclaration] = []
    credentials: list[CredentialsDeclaration] = []
    repository: list[RepositoryDeclaration] = []
    organization: list[OrganizationDeclaration] = []
    enterprise: list[EnterpriseDeclaration] = []
    forge_instance: list[ForgeInstanceDeclaration] = []
    flavor: list[FlavorDeclaration] = []
    image: list[ImageDeclaration] = []
    template: list[TemplateDeclaration] = []
    proxy: list[ProxyDeclaration] = []
    pool: list[PoolDeclaration] = []
    scale_set: list[ScaleSetDeclaration] = []
