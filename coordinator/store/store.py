"""The store as the rest of the coordinator sees it: one object that holds every use case."""

import secrets
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator.store import counted, signing, ways
from coordinator.store.admin_tokens import AdminTokens
from coordinator.store.audit import Audit
from coordinator.store.authority import AuthorityRow
from coordinator.store.backup import Backups
from coordinator.store.catalog import Catalog
from coordinator.store.changed import Changes
from coordinator.store.counted import Counts
from coordinator.store.database import Database, DatabaseUnusable
from coordinator.store.edits import Edits
from coordinator.store.enrolments import Enrolments
from coordinator.store.feed import Feed
from coordinator.store.history import History
from coordinator.store.hosts import Hosts
from coordinator.store.images import Images
from coordinator.store.instances import Instances
from coordinator.store.keys import KEY_FILE, KeyPlace, load_or_make
from coordinator.store.lease import Lease
from coordinator.store.ledger import Ledger
from coordinator.store.listener import Listener
from coordinator.store.members import Members
from coordinator.store.migrate import migrate, only_one_at_a_time
from coordinator.store.planning import Planning
from coordinator.store.retention import Retention
from coordinator.store.rolls import Rolls
from coordinator.store.schema import controller
from coordinator.store.sealing import Sealer
from coordinator.store.settings import Settings
from coordinator.store.signing import Purpose
from coordinator.store.telling import Told
from coordinator.store.timelines import Notes
from coordinator.store.upkeep import Upkeep
from coordinator.store.users import Users
from coordinator.store.ways import JobWay
from coordinator.store.writing import Tools
from hostler.errors import HostlerError


class Store:
    """Opened by `open_store`; `close` when done."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        chance: Callable[[], float],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._new_id = new_id
        self.me = database.me
        self.feed = Feed()
        database.on_change = self.feed.committed
        self.lease = Lease(self.me)
        self.lease.on_change = lambda: self.feed.changed(Changes(everything=True))
        self.members = Members(database, self.lease, self.me, clock)
        self.notes = Notes(database, self.feed)
        self.ledger = Ledger(database, self.feed, self.notes, clock, new_id, self._backoff)
        self.instances = Instances(database, sealer, self.feed, self.lease, clock, chance)
        self.planning = Planning(database, self.feed, self.lease, clock, new_id)
        self.audit = Audit(database, clock)
        self.backups = Backups(database, self.audit, clock)
        self.images = Images(database, self.audit, clock, chance)
        tools = Tools(sealer, self.audit, new_id, clock)
        self.catalog = Catalog(database, tools, self._forget)
        self.settings = Settings(database, self.audit, self.catalog.forget)
        self.edits = Edits(database, tools, self.catalog.forget)
        self.hosts = Hosts(database, self.me, clock)
        self.upkeep = Upkeep(database, self.audit, self.feed, self.lease, clock)
        self.authority = AuthorityRow(database, sealer, clock, new_id)
        self.enrolments = Enrolments(database, self.audit, clock, new_id)
        self.admin_tokens = AdminTokens(database, self.audit, clock, new_id)
        self.users = Users(database, self.audit, clock, new_id)
        self.history = History(database)
        self.rolls = Rolls(database)
        self.retention = Retention(database, clock)
        self.controller_id = ""
        self.created_at: datetime
        self.instance_token_key = b""
        self.signing_keys: dict[Purpose, bytes] = {}

    def _forget(self) -> None:
        self.images.forget()
        self.settings.forget()

    async def _backoff(self) -> timedelta:
        return timedelta(seconds=(await self.settings.get()).minimum_job_age_backoff)

    async def tell(self, action: str, target: str, after: Mapping[str, Any]) -> None:
        """Write into the audit log what somebody has let us do elsewhere."""
        async with self._database.write() as connection:
            await self.audit.write(connection, action, target, after=after)

    def now(self) -> datetime:
        return self._clock()

    def new_id(self) -> str:
        return self._new_id()

    async def open(self) -> None:
        await migrate(self._database)
        async with self._database.write() as connection:
            await only_one_at_a_time(connection)
            row = (await connection.execute(sa.select(controller))).first()
            if row is None:
                self.controller_id = self._new_id()
                self.instance_token_key = secrets.token_bytes(32)
                sealed = self._sealer.seal(self.instance_token_key, f"controller:{self.controller_id}")
                self.created_at = self._clock()
                values = {"id": self.controller_id, "instance_token_key": sealed, "created_at": self.created_at}
                await connection.execute(sa.insert(controller).values(**values))
            else:
                self.controller_id = row.id
                self.created_at = row.created_at
                self.instance_token_key = self._sealer.open(row.instance_token_key, f"controller:{row.id}")
            self.signing_keys = await signing.load_or_make(connection, self._sealer, self._new_id, self._clock())
            self.audit.key = self.signing_keys[Purpose.AUDIT]

    def listener(self, hear: Callable[[Told], None], missed: Callable[[], None]) -> Listener:
        """What hears the other coordinators on this PostgreSQL."""
        return Listener(self._database.url, self.me, hear, missed)

    async def counted(self, most_alive: int) -> Counts:
        """How many there are of what; machines one by one, the newest, at most so many."""
        return await counted.counted(self._database, most_alive)

    async def ways(self, job_ids: Collection[str]) -> list[JobWay]:
        """Jobs with all that is known of their ways; those that are not there are left out."""
        return await ways.of_jobs(self._database, job_ids)

    async def close(self) -> None:
        await self.notes.close()
        await self._database.close()


async def open_store(
    url: str,
    data_dir: Path,
    *,
    clock: Callable[[], datetime],
    new_id: Callable[[], str],
    chance: Callable[[], float],
    key: KeyPlace | None = None,
) -> Store:
    """Open the database, migrated. The key is in `data_dir`, unless another place is given.

    Raises:
        HostlerError: key file or database cannot be used.
    """
    database = Database(url, me=new_id())
    store = Store(
        database, Sealer(*load_or_make(key or KeyPlace(data_dir / KEY_FILE))), clock=clock, new_id=new_id, chance=chance
    )
    try:
        await store.open()
    except (sa.exc.SQLAlchemyError, OSError) as error:
        await store.close()
        reason = getattr(error, "orig", None) or error
        raise DatabaseUnusable(
            f"{database.url.render_as_string()}: {reason}", hint="check database.url, and that this user may use it"
        ) from error
    except HostlerError:
        await store.close()
        raise
    return store
