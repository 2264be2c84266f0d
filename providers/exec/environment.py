"""The environment of a provider executable, built from zero: the contract's variables and what is listed to pass on."""

import base64
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from providers.exec.settings import ExecSettings

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class Command(StrEnum):
    CREATE = "CreateInstance"
    DELETE = "DeleteInstance"
    GET = "GetInstance"
    LIST = "ListInstances"
    START = "StartInstance"
    STOP = "StopInstance"
    REMOVE_ALL = "RemoveAllInstances"
    VERSION = "GetVersion"
    INTERFACES = "GetSupportedInterfaceVersions"
    CONFIG_SCHEMA = "GetConfigJSONSchema"
    EXTRA_SPECS_SCHEMA = "GetExtraSpecsJSONSchema"
    VALIDATE_POOL = "ValidatePoolInfo"


NAMES_INSTANCE = frozenset({Command.DELETE, Command.GET, Command.START, Command.STOP})


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `instance` is a provider id or a name; empty for the commands that name none."""

    command: Command
    pool_id: str
    extra_specs: Mapping[str, Any] | None
    instance: str = ""


def build(settings: ExecSettings, controller_id: str, call: Call, inherited: Mapping[str, str]) -> dict[str, str]:
    """Everything that the executable sees; `inherited` is the coordinator's own environment.

    The pool id goes along with every command: v0.1.1 executables refuse most commands without one, and older ones do
    not look at it.
    """
    made = {
        "GARM_COMMAND": str(call.command),
        "GARM_CONTROLLER_ID": controller_id,
        "GARM_PROVIDER_CONFIG_FILE": settings.config_file,
        "GARM_POOL_ID": call.pool_id,
    }
    if call.instance:
        made["GARM_INSTANCE_ID"] = call.instance
    if settings.interface_version == "v0.1.1":
        # Base64 of JSON, of `null` when there are none.
        made["GARM_POOL_EXTRASPECS"] = base64.b64encode(msgspec.json.encode(call.extra_specs or None)).decode()
    made |= passed_on(settings, inherited)
    made["GARM_INTERFACE_VERSION"] = settings.interface_version
    return made


def passed_on(settings: ExecSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the executable gets of the coordinator's environment: listed prefixes and proxies, nothing named GARM…"""
    prefixes = (*settings.environment, *PROXIES)
    return {
        name: value for name, value in inherited.items() if name.startswith(prefixes) and not name.startswith("GARM")
    }
