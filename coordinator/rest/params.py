"""The bodies of requests that change what is declared, as GARM's clients send them.

What is left out, null or empty has GARM's default when an object is made, and stays when it is changed: clients written
in Go send the empty value for what nobody has said.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from coordinator.domain.fleet import Balancer
from coordinator.http.errors import ApiError
from hostler import config

_OsType = Literal["", "linux", "windows"]
_Arch = Literal["", "amd64", "arm64"]
_Balancer = Literal["", "roundrobin", "pack"]


class GithubPAT(msgspec.Struct, frozen=True):
    oauth2_token: str = ""

    def __repr__(self) -> str:
        return "GithubPAT()"


class UpdateControllerParams(msgspec.Struct, frozen=True):
    metadata_url: str | None = None
    callback_url: str | None = None
    webhook_url: str | None = None
    minimum_job_age_backoff: int | None = None  # seconds
    agent_url: str | None = None
    allow_insecure_garm_agent: bool | None = None
    ca_cert_bundle: str | None = None  # base64, as Go writes bytes
    clear_ca_cert_bundle: bool | None = None
    enable_agent_tools_sync: bool | None = None
    garm_agent_releases_url: str | None = None
    garm_agent_version: str | None = None

    def changes(self) -> dict[str, str]:
        _refuse(self, _OF_GARMS_AGENT, "GARM's agent is not served")
        _refuse(self, ("ca_cert_bundle",), "not kept here; let the images of machines trust the CA")
        _refuse(self, ("minimum_job_age_backoff",), "must be 0: idle runners are subtracted from demand instead")
        urls = {name: getattr(self, name) for name in ("metadata_url", "callback_url", "webhook_url")}
        given = {name: url.rstrip("/") for name, url in urls.items() if url is not None}
        for name, url in given.items():
            if url:
                _web_address(name, url)
        return given


_OF_GARMS_AGENT: Final = (
    "agent_url", "allow_insecure_garm_agent", "enable_agent_tools_sync", "garm_agent_releases_url",
    "garm_agent_version",
)  # fmt: skip


def _refuse(params: msgspec.Struct, names: Iterable[str], reason: str) -> None:
    for name in names:
        if getattr(params, name):
            raise ApiError(400, f"{name}: {reason}")


def _web_address(name: str, url: str) -> None:
    try:
        config.check_key(name, lambda: config.web_address(url))
    except ValueError as error:
        raise ApiError(400, str(error)) from None


class EndpointParams(msgspec.Struct, frozen=True):
    base_url: str | None = None
    api_base_url: str | None = None
    upload_base_url: str | None = None
    ca_cert_bundle: str | None = None  # base64, as Go writes bytes
    description: str | None = None

    def changes(self) -> dict[str, object]:
        _refuse(self, ("ca_cert_bundle",), "not kept here; let the coordinator's own system trust the CA")
        urls = {"base_url": self.base_url, "api_base_url": self.api_base_url, "upload_base_url": self.upload_base_url}
        given: dict[str, object] = {name: url.rstrip("/") for name, url in urls.items() if url}
        return given | ({} if self.description is None else {"description": self.description})


class CreateGithubEndpointParams(EndpointParams, frozen=True):
    name: str = ""


class UpdateGithubEndpointParams(EndpointParams, frozen=True):
    pass


class CreateGithubCredentialsParams(msgspec.Struct, frozen=True):
    name: str = ""
    endpoint: str = ""
    description: str | None = None
    auth_type: str = "pat"
    pat: GithubPAT | None = None
    app: dict[str, Any] | None = None

    def token(self) -> str:
        if self.auth_type != "pat":
            raise ApiError(400, "auth_type: only 'pat' is served; GitHub Apps are not yet")
        return self.pat.oauth2_token if self.pat else ""


class UpdateGithubCredentialsParams(msgspec.Struct, frozen=True):
    name: str | None = None
    description: str | None = None
    pat: GithubPAT | None = None
    app: dict[str, Any] | None = None

    def changes(self) -> dict[str, object]:
        if self.app is not None:
            raise ApiError(400, "app: cannot update app credentials for PAT")
        given: dict[str, object] = {"name": self.name} if self.name else {}
        if self.pat is not None and self.pat.oauth2_token:
            given["token"] = self.pat.oauth2_token
        return given | ({} if self.description is None else {"description": self.description})


class UpdateEntityParams(msgspec.Struct, frozen=True):
    credentials_name: str | None = None
    webhook_secret: str | None = None
    pool_balancer_type: _Balancer | None = None
    agent_mode: bool | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def changes(self) -> dict[str, object]:
        _refuse(self, ("agent_mode",), "GARM's agent is not served")
        given: dict[str, object] = {}
        if self.credentials_name:
            given["credentials"] = self.credentials_name
        if self.webhook_secret:
            given["webhook_secret"] = self.webhook_secret
        if self.pool_balancer_type:
            given["balancer"] = Balancer(self.pool_balancer_type)
        return given


class CreateRepoParams(UpdateEntityParams, frozen=True):
    owner: str = ""
    name: str = ""
    forge_type: Literal["", "github"] | None = None


class UpdatePoolParams(msgspec.Struct, frozen=True, rename={"runner_group": "github-runner-group"}):
    image: str | None = None
    flavor: str | None = None
    tags: list[str] | None = None
    max_runners: int | None = None
    min_idle_runners: int | None = None
    enabled: bool | None = None
    priority: int | None = None
    os_type: _OsType | None = None
    os_arch: _Arch | None = None
    runner_prefix: str | None = None
    runner_group: str | None = None
    runner_bootstrap_timeout: int | None = None  # minutes
    extra_specs: dict[str, Any] | None = None
    enable_shell: bool | None = None
    proxy_id: int | None = None
    template_id: int | None = None

    def changes(self) -> dict[str, object]:
        _refuse(self, _NOT_SERVED, "not served")
        if self.runner_bootstrap_timeout == 0:
            raise ApiError(400, "runner_bootstrap_timeout: cannot be 0")
        said = {key: getattr(self, name) for name, key in _KEPT.items()}
        kept = {key: value for key, value in said.items() if value is not None}
        also = {key: getattr(self, name) for name, key in _KEPT_IF_ANY.items() if getattr(self, name)}
        return kept | also


class CreatePoolParams(UpdatePoolParams, frozen=True):
    provider_name: str = ""
    name: str = ""  # an addition; else one is made up


_NOT_SERVED: Final = ("enable_shell", "proxy_id", "template_id")
# Of a request, to what declarations call it.
_KEPT: Final = {
    "max_runners": "max_runners",
    "min_idle_runners": "min_idle_runners",
    "enabled": "enabled",
    "priority": "priority",
    "runner_group": "runner_group",
    "runner_bootstrap_timeout": "bootstrap_timeout_minutes",
    "extra_specs": "extra_specs",
}
_KEPT_IF_ANY: Final = {
    "image": "image",
    "flavor": "flavor",
    "tags": "labels",
    "os_type": "os_type",
    "os_arch": "arch",
    "runner_prefix": "runner_prefix",
}
