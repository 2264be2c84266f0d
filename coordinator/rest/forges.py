"""GitHub's endpoints, and the credentials for them."""

from typing import Final

from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from coordinator.declare import CredentialsDeclaration, EndpointDeclaration, declaration
from coordinator.rest.params import (
    CreateGithubCredentialsParams,
    CreateGithubEndpointParams,
    UpdateGithubCredentialsParams,
    UpdateGithubEndpointParams,
)
from coordinator.rest.shapes import ForgeCredentials, ForgeEndpoint, endpoint_body
from coordinator.rest.view import declared, none
from coordinator.store.edits import CREDENTIALS, ENDPOINT, NotThere
from coordinator.store.store import Store

_NO_CLOUDS: Final[frozenset[str]] = frozenset()  # only pools name them
_LARGEST_NUMBER: Final = 2**31 - 1


def routes(store: Store) -> list[HTTPRouteHandler]:
    return [*_endpoints(store), *_credentials(store)]


def _endpoints(store: Store) -> list[HTTPRouteHandler]:
    @get("/github/endpoints", operation_id="ListGithubEndpoints")
    async def list_endpoints() -> list[ForgeEndpoint]:
        return [endpoint_body(known) for known in (await declared(store)).there.endpoints.values()]

    @post("/github/endpoints", status_code=200, operation_id="CreateGithubEndpoint")
    async def create_endpoint(data: JSONBody[CreateGithubEndpointParams]) -> ForgeEndpoint:
        new = declaration(EndpointDeclaration, {"name": data.name, **data.changes()})
        made = await store.edits.add(new, _NO_CLOUDS)
        return endpoint_body((await declared(store)).there.endpoints[made])

    @get("/github/endpoints/{name:str}", operation_id="GetGithubEndpoint")
    async def get_endpoint(name: FromPath[str]) -> ForgeEndpoint:
        return endpoint_body((await declared(store)).endpoint(name))

    @put("/github/endpoints/{name:str}", operation_id="UpdateGithubEndpoint")
    async def update_endpoint(name: FromPath[str], data: JSONBody[UpdateGithubEndpointParams]) -> ForgeEndpoint:
        """What is left out stays."""
        await store.edits.change(ENDPOINT, name, data.changes(), _NO_CLOUDS)
        return endpoint_body((await declared(store)).endpoint(name))

    @delete("/github/endpoints/{name:str}", status_code=200, operation_id="DeleteGithubEndpoint")
    async def delete_endpoint(name: FromPath[str]) -> None:
        """Refused while it has credentials. One that is not there is no error, as at GARM."""
        try:
            await store.edits.remove(ENDPOINT, name)
        except NotThere:
            return

    return [list_endpoints, create_endpoint, get_endpoint, update_endpoint, delete_endpoint]


def _credentials(store: Store) -> list[HTTPRouteHandler]:
    async def told(number: int) -> ForgeCredentials:
        there = await declared(store)
        return there.credentials_body(there.credentials(number))

    @get("/github/credentials", operation_id="ListCredentials")
    async def list_credentials() -> list[ForgeCredentials]:
        there = await declared(store)
        return [there.credentials_body(known) for known in there.there.credentials.values()]

    @post("/github/credentials", status_code=200, operation_id="CreateCredentials")
    async def create_credentials(data: JSONBody[CreateGithubCredentialsParams]) -> ForgeCredentials:
        values = {"name": data.name, "endpoint": data.endpoint, "token": data.token()}
        new = declaration(CredentialsDeclaration, values | {"description": data.description or ""})
        made = await store.edits.add(new, _NO_CLOUDS)
        there = await declared(store)
        return there.credentials_body(there.there.credentials[made])

    @get("/github/credentials/{number:int}", operation_id="GetCredentials")
    async def get_credentials(number: FromPath[int]) -> ForgeCredentials:
        return await told(number)

    @put("/github/credentials/{number:int}", operation_id="UpdateCredentials")
    async def update_credentials(
        number: FromPath[int], data: JSONBody[UpdateGithubCredentialsParams]
    ) -> ForgeCredentials:
        """What is left out stays. A new token is in force with the next call to the forge."""
        if not 0 < number <= _LARGEST_NUMBER:
            raise none("credentials", str(number))
        await store.edits.change(CREDENTIALS, number, data.changes(), _NO_CLOUDS)
        return await told(number)

    @delete("/github/credentials/{number:int}", status_code=200, operation_id="DeleteCredentials")
    async def delete_credentials(number: FromPath[int]) -> None:
        """Refused while a repository uses them. Those that are not there are no error, as at GARM."""
        if not 0 < number <= _LARGEST_NUMBER:
            return
        try:
            await store.edits.remove(CREDENTIALS, number)
        except NotThere:
            return

    return [list_credentials, create_credentials, get_credentials, update_credentials, delete_credentials]
