"""The texts that start a runner in a guest: user data, wrapper and install script."""

import base64
from typing import Any, Final

import msgspec

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import Instance
from coordinator.runner_api.outside import Outside
from coordinator.store.catalog import ForgeAccess
from coordinator.store.settings import ControllerSettings
from coordinator.templates.builtin import install_template, wrapper_template
from coordinator.templates.language import render
from coordinator.templates.values import Values
from providers.exec.spec import Tool

# What the forges call our architectures.
FORGE_ARCH: Final = {"amd64": "x64", "arm64": "arm64"}
DIRECT: Final = Outside()
"""Machines reach everything by themselves, and trust whom their image trusts."""

_AWAY: Final = "the forge is away"


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


def user_data(instance: Instance, pool: Pool, where: Urls, token: str, outside: Outside = DIRECT) -> bytes:
    """User data for machines on our own hosts: cloud-init's, and on Windows a script. Holds the token."""
    script = wrapper(instance, pool, where, token, outside)
    if pool.os_type == "windows":
        return script.encode()
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


def wrapper(instance: Instance, pool: Pool, where: Urls, token: str, outside: Outside = DIRECT) -> str:
    """A small script that fetches the install script and runs it. Holds the token."""
    values = {
        "runner_name": instance.name,
        "metadata_url": where.metadata,
        "callback_url": where.callback,
        "token": token,
        "environment": outside.environment,
        "certificates": list(outside.certificates.values()),
        "proxy": outside.proxy.https_proxy or outside.proxy.http_proxy,
        "no_proxy": outside.proxy.no_proxy,
    }
    return render(wrapper_template(pool.os_type), values)


def for_provider_library(script: str) -> str:
    """A script as `runner_install_template` of a provider executable: base64 of what becomes that script.

    GARM's provider library takes it for a template of Go's text/template.
    """
    return base64.b64encode(script.replace("{{", '{{"{{"}}').encode()).decode()


def install_script(
    instance: Instance,
    pool: Pool,
    access: ForgeAccess,
    where: Urls,
    token: str,
    tools: list[Tool] | None,
    template: str = "",
    outside: Outside = DIRECT,
) -> str:
    """The script that makes the machine a runner. Holds the token.

    Only the machine knows whether its image has the runner's program. If it has none and there is none to download, the
    script reports a failure that says what to do.

    Args:
        tools: the forge's downloads; None: it could not be asked.
        template: the text that the pool has chosen; empty: what comes with Hostler.

    Raises:
        TemplateInvalid: the template does not fit this pool.
    """
    forge_type = access.endpoint.kind.value
    values = Values(
        runner_name=instance.name,
        metadata_url=where.metadata,
        callback_url=where.callback,
        token=token,
        forge_type=forge_type,
        forge_url=access.endpoint.base_url,
        entity_url=access.entity.registration_url(access.endpoint),
        os_type=pool.os_type,
        arch=pool.arch,
        labels=tuple(sorted(instance.labels)),
        tool=tool_for(pool, tools or []),
        why_no_tool=f"the forge offers none for {pool.os_type} on {pool.arch}" if tools is not None else _AWAY,
        extra_context=_extra_context(pool),
        proxy=outside.proxy,
        ca_bundle=outside.ca_bundle,
    )
    return render(template or install_template(forge_type, pool.os_type), values.by_name())


def _extra_context(pool: Pool) -> dict[str, Any]:
    """Values of a pool's own for its template, as with GARM."""
    given = msgspec.json.decode(pool.extra_specs, type=dict[str, Any]).get("extra_context")
    return given if isinstance(given, dict) else {}


def tool_for(pool: Pool, tools: list[Tool]) -> Tool:
    """The runner program for the pool's system, of the forge's downloads; an empty one when there is none."""
    for tool in tools:
        if tool.os == pool.os_type.replace("windows", "win") and tool.architecture == FORGE_ARCH[pool.arch]:
            return tool
    return Tool()
