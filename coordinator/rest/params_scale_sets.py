"""The bodies of requests that make and change scale sets, templates and proxies."""

from typing import Any, Final, Literal

import msgspec

from coordinator.domain.fleet import ForgeKind
from coordinator.http.errors import ApiError
from coordinator.rest.params import from_bytes, refuse
from coordinator.rest.params_entities import Arch, OsType, making_changes

_NOT_SERVED: Final = ("enable_shell",)


class ScaleSetParams(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    image: str | None = None
    flavor: str | None = None
    max_runners: int | None = None
    min_idle_runners: int | None = None
    enabled: bool | None = None
    os_type: OsType | None = None
    os_arch: Arch | None = None
    runner_prefix: str | None = None
    runner_bootstrap_timeout: int | None = None  # minutes
    extra_specs: dict[str, Any] | None = None
    disable_update: bool | None = None
    enable_shell: bool | None = None
    proxy_id: int | None = None
    template_id: int | None = None

    def changes(self) -> dict[str, object]:
        """But for template and proxy; see `rest/choosing.py`."""
        refuse(self, _NOT_SERVED, "not served")
        update = {} if self.disable_update is None else {"disable_update": self.disable_update}
        return making_changes(self) | update | ({"name": self.name} if self.name else {})


class UpdateScaleSetParams(ScaleSetParams, frozen=True, kw_only=True):
    runner_group: str | None = None
    state: str | None = None
    extended_state: str | None = None

    def changes(self) -> dict[str, object]:
        refuse(self, ("state", "extended_state"), "is not for clients to say")
        return super().changes()


class CreateScaleSetParams(ScaleSetParams, frozen=True, kw_only=True, rename={"runner_group": "github-runner-group"}):
    runner_group: str | None = None
    provider_name: str = ""
    labels: list[str] | None = None  # none: its name
    scale_set_id: int | None = None

    def changes(self) -> dict[str, object]:
        refuse(self, ("scale_set_id",), "no scale set that is there is taken over yet")
        return {**super().changes(), "labels": self.labels or [self.name or ""]}


class UpdateTemplateParams(msgspec.Struct, frozen=True):
    name: str | None = None
    description: str | None = None
    data: str | None = None  # base64, as Go writes bytes

    def changes(self) -> dict[str, object]:
        given: dict[str, object] = {"name": self.name} if self.name else {}
        if self.data:
            given["data"] = from_bytes("data", self.data)
        return given | ({} if self.description is None else {"description": self.description})


class CreateTemplateParams(UpdateTemplateParams, frozen=True):
    os_type: OsType | None = None
    forge_type: Literal["", "github", "gitea"] | None = None

    def values(self) -> dict[str, object]:
        if not self.os_type or not self.forge_type:
            raise ApiError(400, "os_type, forge_type: both are needed")
        forge = ForgeKind(self.forge_type)
        return {"name": "", "data": "", "os_type": self.os_type, "forge": forge, **self.changes()}


class RestoreTemplateRequest(msgspec.Struct, frozen=True):
    forge: Literal["", "github", "gitea"] | None = None
    os_type: OsType | None = None
    restore_all: bool | None = None


class UpdateProxyParams(msgspec.Struct, frozen=True):
    name: str | None = None
    description: str | None = None
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    def changes(self) -> dict[str, object]:
        said = msgspec.structs.asdict(self)
        return {key: value for key, value in said.items() if value is not None and (key != "name" or value)}


class CreateProxyParams(UpdateProxyParams, frozen=True):
    pass
