"""The bodies of requests that make and change entities and their pools."""

from typing import Any, Final, Literal

import msgspec

from coordinator.domain.fleet import Balancer, EntityKind, EntityName
from coordinator.http.errors import ApiError
from coordinator.rest.params import refuse

OsType = Literal["", "linux", "windows"]
Arch = Literal["", "amd64", "arm64"]
_Balancer = Literal["", "roundrobin", "pack"]
_ForgeType = Literal["", "github", "gitea"]


class UpdateEntityParams(msgspec.Struct, frozen=True):
    credentials_name: str | None = None
    webhook_secret: str | None = None
    pool_balancer_type: _Balancer | None = None
    agent_mode: bool | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def changes(self) -> dict[str, object]:
        refuse(self, ("agent_mode",), "GARM's agent is not served")
        given: dict[str, object] = {}
        if self.credentials_name:
            given["credentials"] = self.credentials_name
        if self.webhook_secret:
            given["webhook_secret"] = self.webhook_secret
        if self.pool_balancer_type:
            given["balancer"] = Balancer(self.pool_balancer_type)
        return given


class CreateEntityParams(UpdateEntityParams, frozen=True):
    forge_type: _ForgeType | None = None

    def named(self, endpoint: str) -> EntityName:
        """`endpoint`: of the credentials."""
        raise NotImplementedError


class CreateRepoParams(CreateEntityParams, frozen=True):
    owner: str = ""
    name: str = ""

    def named(self, endpoint: str) -> EntityName:
        return EntityName(EntityKind.REPOSITORY, self.owner, self.name)


class CreateOrgParams(CreateEntityParams, frozen=True):
    name: str = ""

    def named(self, endpoint: str) -> EntityName:
        return EntityName(EntityKind.ORGANIZATION, self.name)


class CreateEnterpriseParams(CreateEntityParams, frozen=True):
    name: str = ""

    def named(self, endpoint: str) -> EntityName:
        return EntityName(EntityKind.ENTERPRISE, self.name)


class CreateForgeInstanceParams(CreateEntityParams, frozen=True):
    endpoint_name: str | None = None

    def named(self, endpoint: str) -> EntityName:
        if self.endpoint_name not in (None, "", endpoint):
            raise ApiError(400, f"credentials_name: these are of the endpoint '{endpoint}'")
        return EntityName(EntityKind.INSTANCE, endpoint)


class UpdatePoolParams(msgspec.Struct, frozen=True, rename={"runner_group": "github-runner-group"}):
    image: str | None = None
    flavor: str | None = None
    tags: list[str] | None = None
    max_runners: int | None = None
    min_idle_runners: int | None = None
    enabled: bool | None = None
    priority: int | None = None
    os_type: OsType | None = None
    os_arch: Arch | None = None
    runner_prefix: str | None = None
    runner_group: str | None = None
    runner_bootstrap_timeout: int | None = None  # minutes
    extra_specs: dict[str, Any] | None = None
    enable_shell: bool | None = None
    proxy_id: int | None = None
    template_id: int | None = None

    def changes(self) -> dict[str, object]:
        """But for template and proxy; see `rest/choosing.py`."""
        refuse(self, _NOT_SERVED, "not served")
        return making_changes(self)


class CreatePoolParams(UpdatePoolParams, frozen=True):
    provider_name: str = ""
    name: str = ""  # an addition; else one is made up


def making_changes(params: Any) -> dict[str, object]:
    """What was said of the machines that a pool or scale set makes, as its declaration calls it."""
    if params.runner_bootstrap_timeout == 0:
        raise ApiError(400, "runner_bootstrap_timeout: cannot be 0")
    given = {key: getattr(params, name, None) for name, key in _KEPT.items()}
    kept: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    said = kept | {key: value for name, key in _KEPT_IF_ANY.items() if (value := getattr(params, name, None))}
    # GARM's are of any case, and its machines are named in lower case.
    return said | ({"runner_prefix": params.runner_prefix.lower()} if params.runner_prefix else {})


_NOT_SERVED: Final = ("enable_shell",)
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
