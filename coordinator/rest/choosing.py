"""Install template and proxy of a pool or scale set: clients name them by numbers, declarations by their names."""

from typing import Protocol

from coordinator.domain.fleet import Entity
from coordinator.http.errors import ApiError
from coordinator.rest.view import View
from coordinator.store.store import Store
from coordinator.templates.system import SYSTEM


class Choosing(Protocol):
    """The body of a request that makes or changes a pool or scale set."""

    @property
    def template_id(self) -> int | None: ...
    @property
    def proxy_id(self) -> int | None: ...
    def changes(self) -> dict[str, object]: ...


async def changes(
    store: Store, said: Choosing, there: View, entity: Entity, os_type: str = "linux"
) -> dict[str, object]:
    """What was said, as a declaration calls it, with template and proxy.

    Args:
        os_type: what it has when that is not said.

    Raises:
        ApiError: 400, what was said cannot be.
    """
    given = said.changes()
    if said.proxy_id is not None:
        given |= {"proxy": await _proxy(store, said.proxy_id)}
    if said.template_id is None:
        return given
    forge = there.there.endpoints[entity.endpoint_id].endpoint.kind.value
    name = await _name(store, said.template_id, forge, str(given.get("os_type", os_type)))
    return given | {"template": name}


async def _proxy(store: Store, number: int) -> str:
    """Empty: none."""
    if number == 0:
        return ""
    for known in await store.edits.proxies():
        if known.number == number:
            return known.name
    raise ApiError(400, f"proxy_id: there is no proxy '{str(number)[:100]}'")


async def _name(store: Store, number: int, forge: str, os_type: str) -> str:
    """Empty: it is what pools have anyway."""
    if number == 0:
        return ""
    for one in SYSTEM:
        if one.number == number:
            if (one.forge.value, one.os_type) != (forge, os_type):
                raise ApiError(400, f"template_id: '{one.name}' is not for runners of {forge} on {os_type}")
            return ""
    for known in await store.edits.templates():
        if known.number == number:
            return known.name
    raise ApiError(400, f"template_id: there is no template '{str(number)[:100]}'")
