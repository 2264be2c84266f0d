"""Repositories, and the pools and instances of each."""

from typing import Annotated

from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from coordinator.declare import RepositoryDeclaration, declaration
from coordinator.http.errors import ApiError
from coordinator.rest.params import CreateRepoParams, UpdateEntityParams
from coordinator.rest.shapes import InstanceBody, Repository
from coordinator.rest.view import View, declared, view
from coordinator.store.edits import REPOSITORY
from coordinator.store.store import Store


def routes(store: Store) -> list[HTTPRouteHandler]:
    return [*_looking(store), *_changing(store)]


def _looking(store: Store) -> list[HTTPRouteHandler]:
    @get("/repositories", operation_id="ListRepos")
    async def list_repositories(
        owner: FromQuery[str | None] = None,
        name: FromQuery[str | None] = None,
        endpoint: FromQuery[str | None] = None,
    ) -> list[Repository]:
        """Those of an owner, of a name, of an endpoint."""
        there = await view(store)
        wanted = (owner, name, endpoint)
        found = (there.repository_body(known) for known in there.there.entities.values())
        return [
            one
            for one in found
            if all(
                asked in (None, "") or asked == is_
                for asked, is_ in zip(wanted, (one.owner, one.name, one.endpoint.name), strict=True)
            )
        ]

    @get("/repositories/{repo_id:str}", operation_id="GetRepo")
    async def get_repository(repo_id: FromPath[str]) -> Repository:
        there = await view(store)
        return there.repository_body(there.repository(repo_id))

    @get("/repositories/{repo_id:str}/instances", operation_id="ListRepoInstances")
    async def list_repository_instances(repo_id: FromPath[str]) -> list[InstanceBody]:
        there = await view(store)
        return there.instances_of(there.repository(repo_id).entity.id)

    return [list_repositories, get_repository, list_repository_instances]


def _changing(store: Store) -> list[HTTPRouteHandler]:
    @post("/repositories", status_code=200, operation_id="CreateRepo")
    async def create_repository(data: JSONBody[CreateRepoParams]) -> Repository:
        endpoint = _endpoint_of(await declared(store), data.credentials_name or "")
        values = {"webhook_secret": "", **data.changes(), "owner": data.owner, "name": data.name, "endpoint": endpoint}
        made = await store.edits.add(declaration(RepositoryDeclaration, values), frozenset())
        there = await view(store)
        return there.repository_body(there.repository(made))

    @put("/repositories/{repo_id:str}", operation_id="UpdateRepo")
    async def update_repository(repo_id: FromPath[str], data: JSONBody[UpdateEntityParams]) -> Repository:
        """What is left out stays. Other credentials must be of the same endpoint."""
        await store.edits.change(REPOSITORY, repo_id, data.changes(), frozenset())
        there = await view(store)
        return there.repository_body(there.repository(repo_id))

    @delete("/repositories/{repo_id:str}", status_code=200, operation_id="DeleteRepo")
    async def delete_repository(
        repo_id: FromPath[str],
        # It is always kept: none is made here.
        keep_webhook: Annotated[bool, QueryParameter(name="keepWebhook")] = False,  # noqa: ARG001
    ) -> None:
        """Refused while it has pools. Its jobs are forgotten with it."""
        await store.edits.remove(REPOSITORY, repo_id)

    return [create_repository, update_repository, delete_repository]


def _endpoint_of(there: View, credentials_name: str) -> str:
    for known in there.there.credentials.values():
        if known.name == credentials_name:
            return there.there.endpoints[known.endpoint_id].endpoint.name
    raise ApiError(400, f"credentials_name: there are no credentials '{credentials_name[:100]}'")
