"""Endpoints of GitHub and of Gitea, and the credentials for them: the same calls under two paths."""

from typing import Any, Final, NamedTuple

from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from coordinator.declare import CredentialsDeclaration, EndpointDeclaration, declaration
from coordinator.domain.fleet import ForgeKind
from coordinator.http.errors import ApiError
from coordinator.rest.params_forges import (
    CreateGiteaCredentialsParams,
    CreateGiteaEndpointParams,
    CreateGithubCredentialsParams,
    CreateGithubEndpointParams,
    UpdateGiteaCredentialsParams,
    UpdateGiteaEndpointParams,
    UpdateGithubCredentialsParams,
    UpdateGithubEndpointParams,
)
from coordinator.rest.shapes import ForgeCredentials, ForgeEndpoint, endpoint_body
from coordinator.rest.typed import typed
from coordinator.rest.view import View, declared, none
from coordinator.store.edits import NotThere, credentials_of, endpoint_of
from coordinator.store.overview import KnownEndpoint
from coordinator.store.store import Store

_NO_CLOUDS: Final[frozenset[str]] = frozenset()  # only pools name them
_LARGEST_NUMBER: Final = 2**31 - 1


class _Forge(NamedTuple):
    """Of one kind: where it is served, and what its operations are called after `Create`."""

    kind: ForgeKind
    path: str
    endpoint: str
    credentials: str
    create_endpoint: Any  # types of bodies
    update_endpoint: Any
    create_credentials: Any
    update_credentials: Any


_GITHUB: Final = _Forge(
    ForgeKind.GITHUB, "/github", "GithubEndpoint", "Credentials",
    CreateGithubEndpointParams, UpdateGithubEndpointParams,
    CreateGithubCredentialsParams, UpdateGithubCredentialsParams,
)  # fmt: skip
_GITEA: Final = _Forge(
    ForgeKind.GITEA, "/gitea", "GiteaEndpoint", "GiteaCredentials",
    CreateGiteaEndpointParams, UpdateGiteaEndpointParams,
    CreateGiteaCredentialsParams, UpdateGiteaCredentialsParams,
)  # fmt: skip


def routes(store: Store) -> list[HTTPRouteHandler]:
    return [one for forge in (_GITHUB, _GITEA) for one in (*_endpoints(store, forge), *_credentials(store, forge))]


def _endpoints(store: Store, forge: _Forge) -> list[HTTPRouteHandler]:
    path, called, kind = f"{forge.path}/endpoints", forge.endpoint, endpoint_of(forge.kind)

    @get(path, operation_id=f"List{called}s")
    async def list_endpoints() -> list[ForgeEndpoint]:
        return [endpoint_body(known) for known in (await declared(store)).endpoints(forge.kind)]

    @post(path, status_code=200, operation_id=f"Create{called}")
    @typed(body=forge.create_endpoint)
    async def create_endpoint(data: Any) -> ForgeEndpoint:
        new = declaration(EndpointDeclaration, {"name": data.name, **_defaults(forge, data), **data.changes()})
        made = await store.edits.add(new, _NO_CLOUDS)
        return endpoint_body((await declared(store)).there.endpoints[made])

    @get(f"{path}/{{name:str}}", operation_id=f"Get{called}")
    async def get_endpoint(name: FromPath[str]) -> ForgeEndpoint:
        return endpoint_body((await declared(store)).endpoint(forge.kind, name))

    @put(f"{path}/{{name:str}}", operation_id=f"Update{called}")
    @typed(body=forge.update_endpoint)
    async def update_endpoint(name: FromPath[str], data: Any) -> ForgeEndpoint:
        """What is left out stays. Where it is, only while it has no credentials: they would be sent elsewhere."""
        there = await declared(store)
        known, changes = there.endpoint(forge.kind, name), data.changes()
        used = any(one.endpoint_id == known.endpoint.id for one in there.credentials_of(forge.kind))
        if used and any(name in changes and changes[name] != url for name, url in _addresses(known)):
            raise ApiError(400, "cannot update endpoint URLs with existing credentials")
        await store.edits.change(kind, name, changes, _NO_CLOUDS)
        return endpoint_body((await declared(store)).endpoint(forge.kind, name))

    @delete(f"{path}/{{name:str}}", status_code=200, operation_id=f"Delete{called}")
    async def delete_endpoint(name: FromPath[str]) -> None:
        """Refused while it has credentials. One that is not there is no error, as at GARM."""
        try:
            await store.edits.remove(kind, name)
        except NotThere:
            return

    return [list_endpoints, create_endpoint, get_endpoint, update_endpoint, delete_endpoint]


def _addresses(known: KnownEndpoint) -> tuple[tuple[str, str], ...]:
    endpoint = known.endpoint
    return (
        ("base_url", endpoint.base_url),
        ("api_base_url", endpoint.api_base_url),
        ("upload_base_url", known.upload_base_url),
    )


def _defaults(forge: _Forge, data: Any) -> dict[str, object]:
    """A Gitea has no address that could be meant when none is said."""
    if forge.kind is ForgeKind.GITHUB:
        return {}
    if not data.base_url:
        raise ApiError(400, "base_url: is needed")
    return {"kind": forge.kind, "api_base_url": data.base_url.rstrip("/")}


def _credentials(store: Store, forge: _Forge) -> list[HTTPRouteHandler]:
    path, called, kind = f"{forge.path}/credentials", forge.credentials, credentials_of(forge.kind)

    async def told(number: int) -> ForgeCredentials:
        there = await declared(store)
        return there.credentials_body(there.credentials(forge.kind, number))

    @get(path, operation_id=f"List{called}")
    async def list_credentials() -> list[ForgeCredentials]:
        there = await declared(store)
        return [there.credentials_body(known) for known in there.credentials_of(forge.kind)]

    @post(path, status_code=200, operation_id=f"Create{called}")
    @typed(body=forge.create_credentials)
    async def create_credentials(data: Any) -> ForgeCredentials:
        _check_endpoint(await declared(store), forge.kind, data.endpoint)
        made = await store.edits.add(declaration(CredentialsDeclaration, data.values()), _NO_CLOUDS)
        there = await declared(store)
        return there.credentials_body(there.there.credentials[made])

    @get(f"{path}/{{number:int}}", operation_id=f"Get{called}")
    async def get_credentials(number: FromPath[int]) -> ForgeCredentials:
        return await told(number)

    @put(f"{path}/{{number:int}}", operation_id=f"Update{called}")
    @typed(body=forge.update_credentials)
    async def update_credentials(number: FromPath[int], data: Any) -> ForgeCredentials:
        """What is left out stays. A new token is in force with the next call to the forge."""
        if not 0 < number <= _LARGEST_NUMBER:
            raise none("credentials", str(number))
        known = (await declared(store)).credentials(forge.kind, number)
        await store.edits.change(kind, number, data.changes(known.auth), _NO_CLOUDS)
        return await told(number)

    @delete(f"{path}/{{number:int}}", status_code=200, operation_id=f"Delete{called}")
    async def delete_credentials(number: FromPath[int]) -> None:
        """Refused while an entity uses them. Those that are not there are no error, as at GARM."""
        if not 0 < number <= _LARGEST_NUMBER:
            return
        try:
            await store.edits.remove(kind, number)
        except NotThere:
            return

    return [list_credentials, create_credentials, get_credentials, update_credentials, delete_credentials]


def _check_endpoint(there: View, forge: ForgeKind, name: str) -> None:
    if name not in {known.endpoint.name for known in there.endpoints(forge)}:
        raise ApiError(400, f"endpoint: there is no endpoint '{name[:100]}' of {forge}")
