"""The values that cross the border to a provider executable: what create is told, what an instance looks like."""

import re
from typing import Any, Literal

import msgspec

from providers.contract import Arch
from providers.exec.errors import RequestInvalid

# How GitHub calls the operating systems and architectures of its runner archives; Gitea uses the same words.
_TOOL_OS = {"linux": "linux", "windows": "win"}
_TOOL_ARCH = {Arch.AMD64: "x64", Arch.ARM64: "arm64"}
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A runner archive that the guest may download, in the forge's own words."""

    os: str = ""
    architecture: str = ""
    download_url: str = ""
    filename: str = ""
    temp_download_token: str = ""
    sha256_checksum: str = ""

    def __repr__(self) -> str:
        return f"Tool(os={self.os!r}, architecture={self.architecture!r}, filename={self.filename!r})"


class UserDataOptions(msgspec.Struct, frozen=True):
    disable_updates_on_boot: bool = False
    extra_packages: tuple[str, ...] | None = None
    enable_boot_debug: bool = False


class ProxyConfig(msgspec.Struct, frozen=True):
    """Proxies for the guest. Their URLs may hold passwords, so the repr shows none of them."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""

    def __repr__(self) -> str:
        return f"ProxyConfig(no_proxy={self.no_proxy!r})"


class CloudSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that CreateInstance reads from standard input; encoded, it has exactly the contract's keys.

    Some keys have hyphens and some underscores: that is the contract. Holds secrets, so its repr shows only what
    identifies the instance.
    """

    name: str
    tools: tuple[Tool, ...]
    repo_url: str
    callback_url: str = msgspec.field(name="callback-url")
    metadata_url: str = msgspec.field(name="metadata-url")
    instance_token: str = msgspec.field(name="instance-token")
    ssh_keys: tuple[str, ...] | None = msgspec.field(name="ssh-keys", default=None)
    extra_specs: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    github_runner_group: str = msgspec.field(name="github-runner-group", default="")
    ca_cert_bundle: bytes | None = msgspec.field(name="ca-cert-bundle", default=None)
    arch: Arch
    os_type: Literal["linux", "windows"] = "linux"
    flavor: str
    image: str
    labels: tuple[str, ...] | None = None
    pool_id: str
    user_data_options: UserDataOptions = UserDataOptions()
    jit_config_enabled: bool = True
    proxy_config: ProxyConfig = ProxyConfig()

    def __repr__(self) -> str:
        return (
            f"CloudSpec(name={self.name!r}, image={self.image!r}, flavor={self.flavor!r}, arch={str(self.arch)!r}, "
            f"os_type={self.os_type!r}, pool_id={self.pool_id!r}, repo_url={self.repo_url!r})"
        )

    def encode(self) -> bytes:
        """The JSON of the contract; empty extra_specs are left out, as its own writer does."""
        return msgspec.json.encode(msgspec.structs.replace(self, extra_specs=self.extra_specs or msgspec.UNSET))

    def check(self) -> None:
        """Find what every known executable refuses, before a process is spent on it.

        Raises:
            RequestInvalid: a name that is no host name, or no runner archive for the instance.
        """
        if not _NAME.fullmatch(self.name):
            raise RequestInvalid(
                f"instance name '{self.name}' cannot be used in a cloud",
                hint="at most 63 lower-case letters, digits and hyphens, no hyphen at either end",
            )
        os, arch = _TOOL_OS[self.os_type], _TOOL_ARCH[self.arch]
        if not any(tool.os == os and tool.architecture == arch for tool in self.tools):
            offered = ", ".join(f"{tool.os}/{tool.architecture}" for tool in self.tools) or "none"
            raise RequestInvalid(
                f"there is no runner archive for {os}/{arch}, which '{self.name}' needs",
                hint=f"the forge offers: {offered}; check the pool's os_type and arch",
            )


class Address(msgspec.Struct, frozen=True):
    address: str
    type: Literal["public", "private"]


class CloudInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as the executable describes it. `provider_fault` is free text of the cloud, in bytes."""

    provider_id: str
    name: str
    status: Literal["running", "stopped", "error", "unknown"]
    os_type: str = ""
    os_name: str = ""
    os_version: str = ""
    os_arch: str = ""
    addresses: tuple[Address, ...] = ()
    provider_fault: bytes = b""

    def __post_init__(self) -> None:
        if not self.provider_id:
            raise ValueError("provider_id: must not be empty")
        if not self.name:
            raise ValueError("name: must not be empty")
