"""Install templates: those that come with Hostler, which nobody changes, and those that people write."""

import base64
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final

import msgspec
from litestar import delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from coordinator.accounts.roles import Role
from coordinator.declare_base import declaration
from coordinator.declare_text import TemplateDeclaration
from coordinator.http.errors import ApiError
from coordinator.rest import numbered
from coordinator.rest.guard import needs
from coordinator.rest.params_scale_sets import CreateTemplateParams, RestoreTemplateRequest, UpdateTemplateParams
from coordinator.rest.view import none
from coordinator.store.edits import TEMPLATE
from coordinator.store.listed import KnownTemplate
from coordinator.store.store import Store
from coordinator.templates.check import check
from coordinator.templates.system import SYSTEM, SystemTemplate

_NO_CLOUDS: Final[frozenset[str]] = frozenset()  # only pools name them
_SYSTEM: Final = "system"


class Template(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    description: str
    os_type: str
    forge_type: str
    owner_id: str  # "system" for those that come with Hostler
    created_at: datetime
    updated_at: datetime
    data: str | msgspec.UnsetType = msgspec.UNSET  # base64, as Go writes bytes; not in lists


def routes(store: Store) -> list[HTTPRouteHandler]:
    return [*_looking(store), *_changing(store)]


def _looking(store: Store) -> list[HTTPRouteHandler]:
    @get("/templates", operation_id="ListTemplates")
    async def list_templates(
        os_type: Annotated[str | None, QueryParameter(name="osType")] = None,
        partial_name: Annotated[str | None, QueryParameter(name="partialName")] = None,
        forge_type: Annotated[str | None, QueryParameter(name="forgeType")] = None,
    ) -> list[Template]:
        """Without their texts. `partialName`: a part of the name, in any case."""
        since = store.created_at
        found = [*(_of_system(one, since) for one in SYSTEM), *map(body, await store.edits.templates())]
        return [
            one
            for one in found
            if os_type in (None, "", one.os_type)
            and forge_type in (None, "", one.forge_type)
            and (partial_name or "").casefold() in one.name.casefold()
        ]

    # What scripts hold is more than a viewer needs.
    @get("/templates/{number:int}", operation_id="GetTemplate", opt=needs(Role.OPERATOR))
    async def get_template(number: FromPath[int]) -> Template:
        return await _told(store, number)

    return [list_templates, get_template]


def _changing(store: Store) -> list[HTTPRouteHandler]:
    @post("/templates", status_code=200, operation_id="CreateTemplate")
    async def create_template(data: JSONBody[CreateTemplateParams]) -> Template:
        new = declaration(TemplateDeclaration, data.values())
        await check(new.data, new.forge.value, new.os_type)
        made = await store.edits.add(new, _NO_CLOUDS)
        return await _told(store, _number(await store.edits.templates(), made))

    @put("/templates/{number:int}", operation_id="UpdateTemplate")
    async def update_template(number: FromPath[int], data: JSONBody[UpdateTemplateParams]) -> Template:
        """What is left out stays."""
        _check_own(number)
        known = numbered.find("template", number, await store.edits.templates())
        changes = data.changes()
        if "data" in changes:
            await check(str(changes["data"]), known.forge, known.os_type)
        await store.edits.change(TEMPLATE, number, changes, _NO_CLOUDS)
        return await _told(store, number)

    @delete("/templates/{number:int}", status_code=200, operation_id="DeleteTemplate")
    async def delete_template(number: FromPath[int]) -> None:
        _check_own(number)
        await store.edits.remove(TEMPLATE, number)

    @post("/templates/restore", status_code=200, operation_id="RestoreTemplates")
    async def restore_templates(data: JSONBody[RestoreTemplateRequest]) -> None:
        """Those that come with Hostler are as they came, always: there is nothing to restore."""
        if data.restore_all:
            return
        if (data.forge, data.os_type) not in {(one.forge.value, one.os_type) for one in SYSTEM}:
            raise ApiError(400, f"no template comes with Hostler for '{data.os_type}' on '{data.forge}'")

    return [create_template, update_template, delete_template, restore_templates]


def _check_own(number: int) -> None:
    if number in {one.number for one in SYSTEM}:
        raise ApiError(400, "this template comes with Hostler and cannot be changed: make one of your own of its text")
    numbered.check("template", number)


def _number(templates: Iterable[KnownTemplate], row_id: str) -> int:
    for one in templates:
        if one.id == row_id:
            return one.number
    raise none("template", row_id)  # it was removed again since


async def _told(store: Store, number: int) -> Template:
    for one in SYSTEM:
        if one.number == number:
            return msgspec.structs.replace(_of_system(one, store.created_at), data=_go(one.data))
    known = numbered.find("template", number, await store.edits.templates())
    text = await store.edits.template_text(number)
    return msgspec.structs.replace(body(known), data=_go(text or ""))


def _go(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _of_system(one: SystemTemplate, since: datetime) -> Template:
    return Template(
        id=one.number,
        name=one.name,
        description=one.description,
        os_type=one.os_type,
        forge_type=one.forge.value,
        owner_id=_SYSTEM,
        created_at=since,
        updated_at=since,
    )


def body(known: KnownTemplate) -> Template:
    return Template(
        id=known.number,
        name=known.name,
        description=known.description,
        os_type=known.os_type,
        forge_type=known.forge,
        owner_id="",
        created_at=known.times.created_at,
        updated_at=known.times.changed_at,
    )
