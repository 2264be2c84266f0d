"""What install templates may use, by name."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from providers.exec.spec import ProxyConfig, Tool


class Values(msgspec.Struct, frozen=True):
    """Of the machine that a script is for; docs/runner-api.md says it for people."""

    runner_name: str
    metadata_url: str
    callback_url: str
    token: str
    forge_type: str
    forge_url: str  # of the server
    entity_url: str  # of the repository
    os_type: str
    arch: str
    labels: tuple[str, ...]
    tool: Tool  # the runner's program; an empty one when there is none to download
    why_no_tool: str
    extra_context: Mapping[str, Any]  # of the pool's extra_specs
    proxy: ProxyConfig
    ca_bundle: str  # PEM: whom the machine is to trust, besides those whom its image trusts

    def __repr__(self) -> str:
        return f"Values(runner_name={self.runner_name!r})"

    def by_name(self) -> dict[str, Any]:
        tool = {
            "tool_url": self.tool.download_url,
            "tool_file": self.tool.filename,
            "tool_sha256": self.tool.sha256_checksum,
            "tool_token": self.tool.temp_download_token,
        }
        plain = {name: getattr(self, name) for name in self.__struct_fields__ if name not in ("tool", "proxy")}
        return plain | tool | msgspec.structs.asdict(self.proxy)


class AnyContext(Mapping[str, Any]):
    """Stands for the `extra_context` of a pool that nobody knows yet: has whatever is asked for."""

    def __getitem__(self, name: str) -> str:
        return name

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def sample(forge_type: str, os_type: str, *, tool: Tool) -> Values:
    """As of some machine, to try a template with."""
    return Values(
        runner_name="runner-aaaabbbbcccc",
        metadata_url="https://hostler.example/api/v1/metadata",
        callback_url="https://hostler.example/api/v1/callbacks",
        token="header.claims.seal",  # noqa: S106
        forge_type=forge_type,
        forge_url="https://forge.example",
        entity_url="https://forge.example/octo/widgets",
        os_type=os_type,
        arch="amd64",
        labels=("linux", "self-hosted"),
        tool=tool,
        why_no_tool="the forge is away",
        extra_context=AnyContext(),
        proxy=ProxyConfig(),
        ca_bundle="",
    )


NAMES: Final = frozenset(sample("github", "linux", tool=Tool()).by_name())
