"""Cloud pools: drives executables that follow GARM's external-provider contract, unchanged. For the coordinator."""

from providers.exec.errors import (
    ExecError,
    InstanceExists,
    InstanceFaulty,
    InstanceNotFound,
    ProviderAnswerInvalid,
    ProviderCommandFailed,
    ProviderNotStarted,
    ProviderTimeout,
    RequestInvalid,
)
from providers.exec.provider import ExecProvider
from providers.exec.settings import ExecSettings
from providers.exec.spec import Address, CloudInstance, CloudSpec, ProxyConfig, Tool, UserDataOptions

__all__ = [
    "Address",
    "CloudInstance",
    "CloudSpec",
    "ExecError",
    "ExecProvider",
    "ExecSettings",
    "InstanceExists",
    "InstanceFaulty",
    "InstanceNotFound",
    "ProviderAnswerInvalid",
    "ProviderCommandFailed",
    "ProviderNotStarted",
    "ProviderTimeout",
    "ProxyConfig",
    "RequestInvalid",
    "Tool",
    "UserDataOptions",
]
