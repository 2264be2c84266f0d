"""What people set of the controller while it runs, instead of what its configuration says."""

from collections.abc import Callable, Mapping

import msgspec
import sqlalchemy as sa

from coordinator.store import changed
from coordinator.store.audit import Audit
from coordinator.store.database import Database
from coordinator.store.retrying import retried
from coordinator.store.schema import controller


class ControllerSettings(msgspec.Struct, frozen=True):
    """Where it is called (empty: as configured), and what planning is told."""

    metadata_url: str = ""
    callback_url: str = ""
    webhook_url: str = ""
    ca_bundle: str = ""  # PEM: whom machines are to trust, besides those that their endpoint names
    minimum_job_age_backoff: int = 0  # seconds that a job waits before a machine is made for it


_COLUMNS = [controller.c[name] for name in ControllerSettings.__struct_fields__]


class Settings:
    def __init__(self, database: Database, audit: Audit, forget: Callable[[], None]) -> None:
        """`forget` is told when anything was changed; it is to call `forget` here."""
        self._database = database
        self._audit = audit
        self._tell = forget
        self._known: ControllerSettings | None = None  # asked for each machine that is made
        self._generation = 0  # what was read before the last change must not be kept

    async def get(self) -> ControllerSettings:
        if self._known is not None:
            return self._known
        generation = self._generation
        async with self._database.read() as connection:
            found = ControllerSettings(*(await connection.execute(sa.select(*_COLUMNS))).one())
        if generation == self._generation:
            self._known = found
        return found

    def forget(self) -> None:
        """Something was changed, here or by another coordinator."""
        self._generation += 1
        self._known = None

    async def change(self, values: Mapping[str, str | int]) -> None:
        """Set some of them; they hold for machines that are made from now on."""
        try:
            await self._change(values)
        finally:
            self._tell()

    @retried
    async def _change(self, values: Mapping[str, str | int]) -> None:
        async with self._database.write() as connection:
            old = (await connection.execute(sa.select(*_COLUMNS).with_for_update())).one()
            other = {name: value for name, value in values.items() if getattr(old, name) != value}
            if not other:
                return
            changes = changed.of(connection)
            changes.catalog = True  # which makes the other coordinators forget
            changes.declared.add(changed.said("controller", "updated", ""))
            await connection.execute(sa.update(controller).values(**other))
            before = {name: getattr(old, name) for name in other}
            await self._audit.write(connection, "updated", "controller", before=before, after=other)
