"""Removing what a document does not declare: whether it may go, and how it goes."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.declare import FlavorDeclaration
from coordinator.declare_image import ImageDeclaration
from coordinator.declare_plan import Action, Plan, Step
from coordinator.domain.fleet import EntityKind
from coordinator.store import edits
from coordinator.store.edits import InUse, Kind, NotThere
from coordinator.store.schema import flavors, images, pools, scale_sets
from coordinator.store.writing import Writing

_FLAVOR: Final = Kind("flavor", flavors, flavors.c.id, ("vcpus", "memory_mib", "disk_gib"))
_IMAGE: Final = Kind("image", images, images.c.id, ("url", "sha256"))
_KINDS: Final = {
    **{kind.name: kind for kind in (edits.ENDPOINT, edits.CREDENTIALS, edits.POOL, _FLAVOR, _IMAGE)},
    **{kind.table: edits.entity(kind) for kind in EntityKind},
    "template": edits.TEMPLATE,
    "proxy": edits.PROXY,
    "scale_set": edits.SCALE_SET,
}
_NAMING: Final = {pools: "pools", scale_sets: "scale sets"}


def going(plan: Plan) -> frozenset[str]:
    """Ids of all that is to be removed."""
    return frozenset(step.row_id for step in plan.steps if step.action is Action.REMOVE)


async def forget_some(connection: AsyncConnection, step: Step, gone: frozenset[str]) -> int:
    """Forget a batch of the history of what may go; rows deleted.

    What has none is not looked at: who refers to it now may be about to let go of it.

    Raises:
        InUse: it may not.
    """
    kind = _KINDS[step.kind]
    if kind.table not in edits.WITH_HISTORY:
        return 0
    row = await _row(connection, kind, step)
    await edits.unused(connection, kind, row, gone)
    return await edits.forget_history(connection, kind, row.id)


async def removable(
    connection: AsyncConnection, step: Step, gone: frozenset[str], known_providers: frozenset[str]
) -> sa.Row[Any]:
    """Its row, when nothing that stays refers to it.

    Raises:
        InUse: something does.
    """
    kind = _KINDS[step.kind]
    row = await _row(connection, kind, step)
    await edits.unused(connection, kind, row, gone)
    match step.declared:
        case FlavorDeclaration(name=name):
            for table in _NAMING:
                ours = table.c.provider.not_in(known_providers)  # a cloud's flavors are its own
                await _unnamed(connection, step, gone, table, (table.c.flavor == name) & ours)
        case ImageDeclaration(name=name, arch=arch):
            for table in _NAMING:
                await _unnamed(connection, step, gone, table, (table.c.image == name) & (table.c.arch == arch))
        case _:
            pass
    return row


async def remove(writing: Writing, step: Step, row: sa.Row[Any]) -> None:
    """What is `removable`."""
    await edits.remove_row(writing, _KINDS[step.kind], row)


async def _row(connection: AsyncConnection, kind: Kind, step: Step) -> sa.Row[Any]:
    query = sa.select(kind.table).where(kind.table.c.id == step.row_id).with_for_update()
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotThere(f"the {step.kind} '{step.name}' was removed meanwhile", hint="apply again")
    return row


async def _unnamed(
    connection: AsyncConnection, step: Step, gone: frozenset[str], table: sa.Table, names_it: sa.ColumnElement[bool]
) -> None:
    query = sa.select(table.c.name).where(names_it, table.c.id.not_in(gone)).order_by(table.c.name)
    users = list(await connection.scalars(query.limit(10)))
    if users:
        raise InUse(
            f"the {step.kind} '{step.name}' is named by {_NAMING[table]} that stay: {', '.join(users)}",
            hint="declare it, or let them name another one",
        )
