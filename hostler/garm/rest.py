"""Reads a running GARM by its REST API, which tells everything but secrets."""

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from hostler import config
from hostler.errors import ConfigError, HostlerError
from hostler.garm.model import (
    EntityTable,
    GarmCredentials,
    GarmEndpoint,
    GarmEntity,
    GarmFleet,
    GarmPool,
    GarmProxy,
    GarmScaleSet,
    GarmTemplate,
)

T = TypeVar("T")

_TIMEOUT_SECONDS: Final = 30
_SYSTEM: Final = "system"  # whose the templates are that come with a GARM
_ENTITIES: Final[dict[str, EntityTable]] = {
    "repositories": "repository",
    "organizations": "organization",
    "enterprises": "enterprise",
    "forge-instances": "forge_instance",
}


class GarmUnreachable(HostlerError):
    """No GARM answers there as one does."""

    code = "garm_unreachable"


class _Endpoint(msgspec.Struct, frozen=True):
    name: str
    base_url: str = ""
    api_base_url: str = ""
    upload_base_url: str = ""
    description: str = ""
    endpoint_type: str = "github"
    ca_cert_bundle: str | None = None  # base64, as Go writes bytes
    tools_metadata_url: str = ""
    use_internal_tools_metadata: bool | None = None


class _Credentials(msgspec.Struct, frozen=True, rename={"auth_type": "auth-type"}):
    name: str
    endpoint: _Endpoint
    auth_type: str = "pat"
    forge_type: str = "github"
    description: str = ""


class _Entity(msgspec.Struct, frozen=True):
    id: str
    endpoint: _Endpoint
    owner: str = ""
    name: str = ""
    credentials_name: str = ""
    pool_balancing_type: str = ""
    agent_mode: bool = False


class _Tag(msgspec.Struct, frozen=True):
    name: str


class _OfEntity(msgspec.Struct, frozen=True):
    repo_id: str = ""
    org_id: str = ""
    enterprise_id: str = ""
    forge_instance_id: str = ""

    @property
    def entity_id(self) -> str:
        return self.repo_id or self.org_id or self.enterprise_id or self.forge_instance_id


class _Making(_OfEntity, frozen=True, kw_only=True, rename={"runner_group": "github-runner-group"}):
    provider_name: str
    image: str
    flavor: str
    os_type: str = "linux"
    os_arch: str = "amd64"
    tags: list[_Tag] = []
    enabled: bool = False
    max_runners: int = 0
    min_idle_runners: int = 0
    runner_prefix: str = ""
    runner_group: str = ""
    runner_bootstrap_timeout: int = 20
    extra_specs: dict[str, Any] | None = None
    template_id: int | None = None
    proxy_id: int | None = None
    enable_shell: bool = False


class _Pool(_Making, frozen=True, kw_only=True):
    id: str
    priority: int = 0


class _ScaleSet(_Making, frozen=True, kw_only=True):
    name: str
    disable_update: bool = False


class _Template(msgspec.Struct, frozen=True):
    id: int
    name: str
    owner_id: str = ""
    description: str = ""
    os_type: str = "linux"
    forge_type: str = "github"
    data: bytes = b""  # not in lists


class _Proxy(msgspec.Struct, frozen=True):
    id: int
    name: str
    description: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    username: str = ""


def read(url: str, token: str) -> GarmFleet:
    """
    Args:
        url: what GARM's own client is given; `/api/v1` is added.

    Raises:
        ConfigError: no address.
        GarmUnreachable: nobody answers there, or not as a GARM does.
    """
    try:
        config.check_key("--url", lambda: config.web_address(url))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    api = _Api(url, token)
    own = {one.id: one.name for one in api.all("templates", _Template) if one.owner_id != _SYSTEM}
    proxies = api.all("proxies", _Proxy)
    proxy = {one.id: one.name for one in proxies}
    return GarmFleet(
        endpoints=tuple(
            _endpoint(one, forge)
            for forge in ("github", "gitea")
            for one in api.all(f"{forge}/endpoints", _Endpoint, is_new=forge == "gitea")
        ),
        credentials=tuple(
            _credentials(one, forge)
            for forge in ("github", "gitea")
            for one in api.all(f"{forge}/credentials", _Credentials, is_new=forge == "gitea")
        ),
        entities=tuple(
            _entity(one, table)
            for path, table in _ENTITIES.items()
            for one in api.all(path, _Entity, is_new=table == "forge_instance")
        ),
        pools=tuple(
            GarmPool(**_making(one, own, proxy), id=one.id, priority=one.priority)
            for one in api.all("pools", _Pool, is_new=False)
        ),
        scale_sets=tuple(
            GarmScaleSet(**_making(one, own, proxy), name=one.name, disable_update=one.disable_update)
            for one in api.all("scalesets", _ScaleSet)
        ),
        templates=tuple(_template(api.one(f"templates/{number}", _Template)) for number in own),
        proxies=tuple(map(_proxy, proxies)),
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Whoever GARM points to must not get the token."""

    def redirect_request(self, *_: object) -> None:
        return None


class _Api:
    def __init__(self, url: str, token: str) -> None:
        self._base = f"{url.rstrip('/').removesuffix('/api/v1')}/api/v1"
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._opener = urllib.request.build_opener(_NoRedirect)

    def all(self, path: str, kind: type[T], *, is_new: bool = True) -> list[T]:
        """Every object of a listing; none when `is_new` and this GARM does not know the path."""
        content = self._get(path, is_new=is_new)
        try:
            return msgspec.json.decode(content, type=list[kind] | None) or []  # type: ignore[valid-type]
        except msgspec.DecodeError as error:
            raise GarmUnreachable(f"{self._base}/{path}: no answer of a GARM: {error}") from None

    def one(self, path: str, kind: type[T]) -> T:
        content = self._get(path, is_new=False)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise GarmUnreachable(f"{self._base}/{path}: no answer of a GARM: {error}") from None

    def _get(self, path: str, *, is_new: bool) -> bytes:
        request = urllib.request.Request(f"{self._base}/{path}", headers=self._headers)  # noqa: S310  (checked to be http)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            if error.code == 404 and is_new:
                return b"[]"
            hint = "give the token of a user that is an administrator there" if error.code in (401, 403) else ""
            raise GarmUnreachable(f"{self._base}/{path}: answers {error.code}", hint=hint) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GarmUnreachable(f"{self._base}/{path}: {error}") from None


def _endpoint(one: _Endpoint, forge: str) -> GarmEndpoint:
    return GarmEndpoint(
        name=one.name,
        forge=forge,
        base_url=one.base_url,
        api_base_url=one.api_base_url,
        upload_base_url=one.upload_base_url,
        description=one.description,
        ca_bundle=base64.b64decode(one.ca_cert_bundle or "").decode(),
        tools_metadata_url=one.tools_metadata_url,
        use_internal_tools_metadata=bool(one.use_internal_tools_metadata),
    )


def _credentials(one: _Credentials, forge: str) -> GarmCredentials:
    return GarmCredentials(
        name=one.name, forge=forge, endpoint=one.endpoint.name, auth=one.auth_type, description=one.description
    )


def _entity(one: _Entity, table: EntityTable) -> GarmEntity:
    return GarmEntity(
        id=one.id,
        table=table,
        endpoint=one.endpoint.name,
        forge=one.endpoint.endpoint_type or "github",
        credentials=one.credentials_name,
        owner=one.owner,
        name=one.name,
        balancer=one.pool_balancing_type,
        agent_mode=one.agent_mode,
    )


def _template(one: _Template) -> GarmTemplate:
    return GarmTemplate(
        name=one.name,
        description=one.description,
        os_type=one.os_type,
        forge=one.forge_type,
        data=one.data.decode(errors="replace"),
    )


def _proxy(one: _Proxy) -> GarmProxy:
    return GarmProxy(
        name=one.name,
        description=one.description,
        http_proxy=one.http_proxy,
        https_proxy=one.https_proxy,
        no_proxy=one.no_proxy,
        username=one.username,
        password=None if one.username else "",
    )


def _making(one: _Making, templates: Mapping[int, str], proxies: Mapping[int, str]) -> dict[str, Any]:
    return {
        "entity_id": one.entity_id,
        "provider": one.provider_name,
        "image": one.image,
        "flavor": one.flavor,
        "os_type": one.os_type,
        "os_arch": one.os_arch,
        "tags": tuple(tag.name for tag in one.tags),
        "enabled": one.enabled,
        "max_runners": one.max_runners,
        "min_idle_runners": one.min_idle_runners,
        "runner_prefix": one.runner_prefix,
        "runner_group": one.runner_group,
        "bootstrap_timeout_minutes": one.runner_bootstrap_timeout,
        "extra_specs": one.extra_specs or {},
        "template": templates.get(one.template_id or 0, ""),
        "proxy": proxies.get(one.proxy_id or 0, ""),
        "shell": one.enable_shell,
    }
