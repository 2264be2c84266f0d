"""What a pool or scale set names: which one it is, and whether its runners can be made by it."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.declare_pool import Making
from coordinator.store.schema import endpoints, entities, proxies, templates
from coordinator.store.writing import Clash, UnknownReference
from coordinator.templates.system import SYSTEM


async def template_id(connection: AsyncConnection, one: Making, entity_id: str) -> str | None:
    """The id of its template's row; None: it takes what comes with Hostler.

    Raises:
        UnknownReference: nobody has made such a template.
        Clash: it is for the runners of another forge or system.
    """
    if not one.template:
        return None
    if one.template in {known.name for known in SYSTEM}:
        raise UnknownReference(
            f"'{one.name}': the template '{one.template}' comes with Hostler", hint="leave the template out"
        )
    row = (await connection.execute(sa.select(templates).where(templates.c.name == one.template))).first()
    if row is None:
        raise UnknownReference(
            f"there is no template '{one.template}', which '{one.name}' names",
            hint="declare it in a [[template]] table, or check its name",
        )
    mine = sa.select(endpoints.c.kind).join(entities, entities.c.endpoint_id == endpoints.c.id)
    forge = await connection.scalar(mine.where(entities.c.id == entity_id))
    if (row.forge, row.os_type) != (forge, one.os_type):
        raise Clash(
            f"'{one.name}': the template '{one.template}' is for runners of {row.forge} on {row.os_type}, "
            f"and not of {forge} on {one.os_type}",
            hint="name another one, or leave the template out",
        )
    return str(row.id)


async def proxy_id(connection: AsyncConnection, one: Making) -> str | None:
    """The id of its proxy's row; None: it has none.

    Raises:
        UnknownReference: there is no such proxy.
    """
    if not one.proxy:
        return None
    found = await connection.scalar(sa.select(proxies.c.id).where(proxies.c.name == one.proxy))
    if found is None:
        raise UnknownReference(
            f"there is no proxy '{one.proxy}', which '{one.name}' names",
            hint="declare it in a [[proxy]] table, or check its name",
        )
    return str(found)
