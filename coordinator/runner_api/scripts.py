"""The texts that start a runner in a guest: cloud-init user data, wrapper and install script."""

import base64
from importlib.resources import files
from typing import Final

import jinja2
import msgspec

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import Instance
from coordinator.store.settings import ControllerSettings
from providers.exec.spec import Tool

_environment: Final = jinja2.Environment(
    loader=jinja2.FunctionLoader(lambda name: (files(__package__) / "templates" / name).read_text(encoding="utf-8")),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 (shell, not HTML; values are quoted by the filter `sh`)
)

# What the forges call our architectures.
FORGE_ARCH: Final = {"amd64": "x64", "arm64": "arm64"}


def _shell_quote(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


_environment.filters["sh"] = _shell_quote


class Urls(msgspec.Struct, frozen=True):
    """Where guests find the coordinator."""

    metadata: str
    callback: str

    def but(self, said: ControllerSettings) -> "Urls":
        """With what people have set instead."""
        return Urls(said.metadata_url or self.metadata, said.callback_url or self.callback)


def urls(runner_url: str) -> Urls:
    base = runner_url.rstrip("/")
    return Urls(f"{base}/api/v1/metadata", f"{base}/api/v1/callbacks")


def user_data(instance: Instance, where: Urls, token: str) -> bytes:
    """cloud-init user data for machines on our own hosts. Holds the token."""
    script = wrapper(instance, where, token)
    document = {
        "write_files": [
            {
                "path": "/run/hostler/start",
                "permissions": "0600",
                "encoding": "b64",
                "content": base64.b64encode(script.encode()).decode(),
            }
        ],
        # /run may be mounted noexec, so a shell reads the script.
        "runcmd": [["/bin/sh", "/run/hostler/start"]],
    }
    # JSON is YAML, and leaves nothing to quote.
    return b"#cloud-config\n" + msgspec.json.encode(document)


def wrapper(instance: Instance, where: Urls, token: str) -> str:
    """A small script that fetches the install script and runs it; also what GARM-style providers put in user data."""
    return _environment.get_template("wrapper-linux.sh").render(
        metadata_url=where.metadata, callback_url=where.callback, token=token, name=instance.name
    )


def install_script(instance: Instance, pool: Pool, where: Urls, token: str, tools: list[Tool] | None) -> str:
    """The script that makes the machine a runner. Holds the token.

    Only the machine knows whether its image has the runner's program. If it has none and there is none to download, the
    script reports a failure that says what to do. `tools`: the forge's downloads; None: it could not be asked.
    """
    why_none = f"the forge offers none for {pool.os_type} on {pool.arch}" if tools is not None else "the forge is away"
    return _environment.get_template("install-linux.sh").render(
        metadata_url=where.metadata,
        callback_url=where.callback,
        token=token,
        name=instance.name,
        tool=tool_for(pool, tools or []),
        why_none=why_none,
    )


def tool_for(pool: Pool, tools: list[Tool]) -> Tool:
    """The runner program for the pool's system, of the forge's downloads; an empty one when there is none."""
    for tool in tools:
        if tool.os == pool.os_type.replace("windows", "win") and tool.architecture == FORGE_ARCH[pool.arch]:
            return tool
    return Tool()


def unit_file(user: str) -> str:
    """The systemd unit of the runner's service (runner API, systemd/unit-file)."""
    return _environment.get_template("runner.service").render(user=user)
