"""Install templates and proxies as they are declared."""

from functools import partial
from typing import Final, Literal

from coordinator.declare_base import Declared, check_description, check_name
from coordinator.domain.fleet import ForgeKind
from hostler import config

LARGEST_TEMPLATE: Final = 512 * 1024  # bytes; that it can be rendered is checked by whoever takes it in


class TemplateDeclaration(Declared, frozen=True, kw_only=True):
    """A script that makes a machine a runner, in the language of jinja2."""

    name: str
    description: str = ""
    os_type: Literal["linux", "windows"] = "linux"
    forge: ForgeKind = ForgeKind.GITHUB
    data: str

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_description(self.description)
        config.check(bool(self.data.strip()), "data: must not be empty")
        config.check(len(self.data.encode()) <= LARGEST_TEMPLATE, f"data: must have at most {LARGEST_TEMPLATE} bytes")
        config.check("\0" not in self.data, "data: must be text")

    def __repr__(self) -> str:
        return f"TemplateDeclaration(name={self.name!r})"


class ProxyDeclaration(Declared, frozen=True, kw_only=True):
    """By what machines of the pools that name it reach the forge, and us."""

    name: str
    description: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""  # names and addresses, with commas between
    username: str = ""
    password: str | None = None  # as it is; of a new one: none

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_description(self.description)
        config.check(bool(self.http_proxy or self.https_proxy), "http_proxy, https_proxy: one of them is needed")
        for key in ("http_proxy", "https_proxy"):
            url = getattr(self, key)
            if url:
                config.check_key(key, partial(config.web_address, url))
        for key in ("no_proxy", "username", "password"):
            value = getattr(self, key) or ""
            ok = value.isprintable() and len(value) <= 4096
            config.check(ok, f"{key}: must be a line of at most 4096 characters")

        config.check(bool(self.username) or not self.password, "password: needs a username")

    def __repr__(self) -> str:
        return f"ProxyDeclaration(name={self.name!r})"
