"""The templates that come with Hostler, as REST clients see them. Nobody changes them: people copy one."""

from typing import Final, NamedTuple

from coordinator.domain.fleet import ForgeKind
from coordinator.templates.builtin import install_template

FIRST_OWN: Final = 1001
"""Numbers below are those of templates that come with Hostler."""


class SystemTemplate(NamedTuple):
    number: int  # never given to another
    forge: ForgeKind
    os_type: str

    @property
    def name(self) -> str:
        return f"{self.forge}_{self.os_type}"

    @property
    def description(self) -> str:
        return f"Makes a {self.os_type.capitalize()} machine a runner of {self.forge.capitalize()}"

    @property
    def data(self) -> str:
        return install_template(self.forge.value, self.os_type)


SYSTEM: Final = (
    SystemTemplate(1, ForgeKind.GITHUB, "linux"),
    SystemTemplate(2, ForgeKind.GITHUB, "windows"),
    SystemTemplate(3, ForgeKind.GITEA, "linux"),
)
