"""The paths that runner machines call: GARM's instance metadata and callback API, and one call of our own."""

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import Instance, RunnerStatus, Status
from coordinator.forges.contract import ForgeError
from coordinator.forges.forges import Forges
from coordinator.http.errors import AnyRequest, ApiError
from coordinator.runner_api import scripts
from coordinator.runner_api.bundle import TAR, Bundle
from coordinator.runner_api.outside import Outside, outside_of
from coordinator.runner_api.scripts import Urls
from coordinator.runner_api.waiting import Waiting
from coordinator.store.catalog import ForgeAccess
from coordinator.store.instances import AlreadyTakenError
from coordinator.store.store import Store
from coordinator.templates.builtin import unit_file
from coordinator.templates.language import TemplateInvalid
from coordinator.tokens import InstanceTokens, TokenInvalid
from providers.exec.spec import Tool

_BOOTING: Final = (RunnerStatus.PENDING, RunnerStatus.INSTALLING)
# A quick guest may call before its host has said that the create was accepted.
_ALIVE: Final = (Status.PENDING_CREATE, Status.CREATING, Status.RUNNING)
_FILES: Final = ("runner", "credentials", "credentials_rsaparams")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
# What a machine that boots can know of itself. Whether its runner is taken, offline or gone is for others to say.
_SAID: Final = (RunnerStatus.INSTALLING, RunnerStatus.IDLE, RunnerStatus.FAILED)
_CONFIGURATION_SECONDS: Final = 25.0
_LARGEST_REPORT: Final = 256 * 1024

T = TypeVar("T")


class StatusReport(msgspec.Struct, frozen=True):
    status: str
    message: str = ""
    agent_id: int | None = None


class SystemInfo(msgspec.Struct, frozen=True):
    os_name: str = ""
    os_version: str = ""
    agent_id: int | None = None


class RunnerApi:
    """Every call is authorized by the instance's own token, which is dead once its runner is up."""

    def __init__(
        self,
        store: Store,
        forges: Forges,
        tokens: InstanceTokens,
        where: Urls,
        waiting: Waiting,
        configuration_seconds: float = _CONFIGURATION_SECONDS,
    ) -> None:
        self._store = store
        self._forges = forges
        self._tokens = tokens
        self._where = where
        self._waiting = waiting
        self._configuration_seconds = configuration_seconds

    async def _caller(self, request: AnyRequest) -> tuple[Instance, str]:
        """The instance whose token this is.

        Raises:
            ApiError: 401, for every reason the same, so that nothing is learned from it.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        refusal = _refusal()
        if scheme.lower() != "bearer":
            raise refusal
        try:
            bearer = self._tokens.read(token.strip())
        except TokenInvalid:
            raise refusal from None
        instance = await self._store.instances.get(bearer.instance_id)
        if instance is None or instance.status not in _ALIVE or instance.runner_status not in _BOOTING:
            raise refusal
        if instance.generation != bearer.attempt:
            raise refusal
        return instance, token.strip()

    async def status(self, request: AnyRequest) -> None:
        instance, _ = await self._caller(request)
        report = _decode(await request.body(), StatusReport)
        if report.status not in _SAID:
            raise ApiError(400, f"status: '{report.status[:100]}' is none of {', '.join(_SAID)}")
        if report.agent_id and instance.forge_runner_id not in (0, report.agent_id):
            raise ApiError(400, "agent_id: this runner was registered with another")
        taken = await self._store.instances.runner_said(instance.id, RunnerStatus(report.status), report.message[:500])
        if taken is None:
            raise ApiError(400, f"status: '{report.status}' cannot follow '{instance.runner_status}'")

    async def system_info(self, request: AnyRequest) -> None:
        instance, _ = await self._caller(request)
        told = _decode(await request.body(), SystemInfo)
        await self._store.instances.system_info(instance.id, told.os_name[:100], told.os_version[:100])

    async def credentials(self, request: AnyRequest, name: str) -> bytes:
        """One file of the just-in-time configuration, once. The forge may be slower than the boot: waits for it."""
        instance, _ = await self._caller(request)
        if name not in _FILES:
            raise ApiError(404, f"there is no file '{name}'; there are {', '.join(_FILES)}")
        try:
            return await self._once(instance, lambda: self._store.instances.take_runner_file(instance.id, f".{name}"))
        except KeyError:
            raise ApiError(404, f"the forge gave no file '{name}'") from None

    async def _once(self, instance: Instance, take: Callable[[], Awaitable[T | None]]) -> T:
        """What is handed out once, when the forge has given it."""
        try:
            taken = await self._waiting.until(instance.id, take, self._configuration_seconds)
        except AlreadyTakenError as error:
            raise ApiError(410, f"handed out already: {error}") from None
        if taken is None:
            raise ApiError(503, "the forge has not given this runner's configuration yet; ask again")
        return taken

    async def runner(self, request: AnyRequest) -> Bundle:
        """All at once, and once: what else takes a call for each file, the unit, the system and the first status."""
        instance, _ = await self._caller(request)
        user = _user(request)
        told = _decode(await request.body() or b"{}", SystemInfo)
        if await self._store.instances.runner_said(instance.id, RunnerStatus.INSTALLING, "booted") is None:
            raise _refusal()
        await self._store.instances.system_info(instance.id, told.os_name[:100], told.os_version[:100])
        files = await self._once(instance, lambda: self._store.instances.take_runner_files(instance.id))
        access, outside = await self._outside(instance)
        forge_type = access.endpoint.kind.value
        return Bundle(
            runner_name=instance.name,
            runner_labels=sorted(instance.labels),
            forge_type=forge_type,
            runner_registration_url=_registration_url(access),
            service_name=_service_name(access),
            unit=unit_file(forge_type, user, outside.environment),
            files=files,
        )

    async def install_script(self, request: AnyRequest) -> str:
        instance, token = await self._caller(request)
        pool = await self._store.catalog.pool(instance.pool_id)
        try:
            tools: list[Tool] | None = await self._forges.tools(instance.entity_id)
        except ForgeError:
            tools = None  # an image that has the runner needs none
        access, outside = await self._outside(instance)
        where = self._where.but(await self._store.settings.get())
        template = await self._store.catalog.install_template(pool.id)
        try:
            return scripts.install_script(instance, pool, access, where, token, tools, template, outside)
        except TemplateInvalid as error:
            raise ApiError(400, str(error)) from None

    async def metadata(self, request: AnyRequest) -> dict[str, object]:
        instance, _ = await self._caller(request)
        pool: Pool = await self._store.catalog.pool(instance.pool_id)
        access, outside = await self._outside(instance)
        try:
            tools = await self._forges.tools(instance.entity_id)
        except ForgeError:
            raise ApiError(503, "the forge does not say where its runner program is; ask again") from None
        where = self._where.but(await self._store.settings.get())
        return {
            "metadata_access": {
                "callback_url": where.callback,
                "metadata_url": where.metadata,
                "agent_url": "",
            },
            "forge_type": access.endpoint.kind.value,
            "runner_registration_url": _registration_url(access),
            "runner_name": instance.name,
            "runner_labels": sorted(instance.labels),
            "ca_bundles": _as_bytes(outside.certificates),
            "extra_specs": msgspec.json.decode(pool.extra_specs),
            "agent_mode": False,
            "agent_shell_enabled": False,
            "jit_enabled": True,
            "runner_tools": msgspec.to_builtins(scripts.tool_for(pool, tools)),
        }

    async def service_name(self, request: AnyRequest) -> str:
        instance, _ = await self._caller(request)
        access = await self._store.catalog.forge_access(instance.entity_id)
        return _service_name(access)

    async def unit_file(self, request: AnyRequest) -> str:
        instance, _ = await self._caller(request)
        access, outside = await self._outside(instance)
        return unit_file(access.endpoint.kind.value, _user(request), outside.environment)

    async def certificates(self, request: AnyRequest) -> dict[str, dict[str, str]]:
        instance, _ = await self._caller(request)
        _, outside = await self._outside(instance)
        return {"root_certificates": _as_bytes(outside.certificates)}

    async def _outside(self, instance: Instance) -> tuple[ForgeAccess, Outside]:
        access = await self._store.catalog.forge_access(instance.entity_id)
        pool = await self._store.catalog.pool(instance.pool_id)
        return access, await outside_of(self._store, pool, access)

    async def registration_token(self, request: AnyRequest) -> None:
        await self._caller(request)
        raise ApiError(401, "this runner has a just-in-time configuration: ask for its credentials files")

    def routes(self) -> list[HTTPRouteHandler]:
        base = "/api/v1"

        @post(f"{base}/callbacks/status", status_code=200, request_max_body_size=_LARGEST_REPORT)
        async def status(request: AnyRequest) -> None:
            await self.status(request)

        @post(f"{base}/callbacks/system-info", status_code=200, request_max_body_size=_LARGEST_REPORT)
        async def system_info(request: AnyRequest) -> None:
            await self.system_info(request)

        @get(f"{base}/metadata/credentials/{{name:str}}", media_type="application/octet-stream")
        async def credentials(request: AnyRequest, name: FromPath[str]) -> bytes:
            return await self.credentials(request, name)

        @post(f"{base}/metadata/runner", status_code=200, request_max_body_size=_LARGEST_REPORT)
        async def runner(request: AnyRequest) -> Response[bytes]:
            wants_tar = TAR in request.headers.get("accept", "")
            made = await self.runner(request)
            content, kind = (made.as_tar(), TAR) if wants_tar else (made.as_json(), "application/json")
            return Response(content, media_type=kind)

        @get(f"{base}/metadata/runner-metadata")
        async def metadata(request: AnyRequest) -> dict[str, object]:
            return await self.metadata(request)

        @get(f"{base}/metadata/system/cert-bundle")
        async def certificates(request: AnyRequest) -> dict[str, dict[str, str]]:
            return await self.certificates(request)

        @get(f"{base}/metadata/install-script", media_type="text/plain")
        async def install_script(request: AnyRequest) -> str:
            return await self.install_script(request)

        @get(f"{base}/metadata/system/service-name", media_type="text/plain")
        async def service_name(request: AnyRequest) -> str:
            return await self.service_name(request)

        @get(f"{base}/metadata/systemd/unit-file", media_type="text/plain")
        async def unit_file(request: AnyRequest) -> str:
            return await self.unit_file(request)

        @get(f"{base}/metadata/runner-registration-token", media_type="text/plain")
        async def registration_token(request: AnyRequest) -> None:
            await self.registration_token(request)

        return [
            status, system_info, credentials, runner, metadata, certificates,
            install_script, service_name, unit_file, registration_token,
        ]  # fmt: skip


def _refusal() -> ApiError:
    return ApiError(401, "the token is missing, wrong, or its runner is up already")


def _as_bytes(certificates: Mapping[str, str]) -> dict[str, str]:
    """In base64, as Go writes bytes."""
    return {name: base64.b64encode(pem.encode()).decode() for name, pem in certificates.items()}


def _user(request: AnyRequest) -> str:
    user = request.query_params.get("runAsUser", "runner")
    if not _USER.fullmatch(user):
        raise ApiError(400, f"runAsUser: '{user[:100]}' is no user name")
    return user


def _registration_url(access: ForgeAccess) -> str:
    return access.entity.registration_url(access.endpoint)


def _service_name(access: ForgeAccess) -> str:
    return f"actions.runner.{access.entity.full_name.replace('/', '.')}"


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not what this path takes: {error}") from None
