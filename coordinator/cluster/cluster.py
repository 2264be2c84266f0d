"""This coordinator among the others: it says that it lives, tries to be the one that plans, and hears what is changed.

On SQLite it is alone: one beat at the start, and nothing after it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import sqlalchemy as sa
import structlog

from coordinator.fleet.entrance import Revocations
from coordinator.fleet.links import Links
from coordinator.runner_api.waiting import Waiting
from coordinator.store.changed import Changes
from coordinator.store.store import Store
from coordinator.store.telling import Told
from hostler.errors import HostlerError

log = structlog.get_logger()

_SLOWEST_SECONDS: Final = 3.0
"""A beat that takes longer is given up: the lease must be renewed before it ends."""

_AFTER_ERROR_SECONDS: Final = 0.5
_JUST_AFTER_SECONDS: Final = 0.01


class Cluster:
    def __init__(self, store: Store, links: Links, waiting: Waiting, revocations: Revocations) -> None:
        self._store = store
        self._links = links
        self._waiting = waiting
        self._revocations = revocations
        self._revoked = False  # somewhere: streams here may have to end
        self._wake = asyncio.Event()
        self._lease_is_free = False
        self._doubted: set[str] = set()  # hosts whose streams may be elsewhere now
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Returns when this process is known to the others, and hears them."""
        seconds = await self._store.members.beat({})
        if self._store.members.alone:
            return
        listening = asyncio.Event()

        def missed() -> None:
            listening.set()
            self._missed()

        listener = self._store.listener(self._hear, missed)
        self._tasks = [asyncio.create_task(self._beat(seconds)), asyncio.create_task(listener.run())]
        await listening.wait()

    async def let_another_plan(self) -> None:
        """This process ends: from now on it does not plan, and says nothing more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _if_it_can("the planning lease ends by itself", self._store.members.release)

    async def leave(self) -> None:
        """It holds no streams any more."""
        if self._tasks:  # it never came to serve
            await self.let_another_plan()
        await _if_it_can("the others will notice that it ended", self._store.members.leave)

    # --- beats ---

    async def _beat(self, seconds: float) -> None:
        """For ever. No tick: the lease of another is asked for when it ends or is let go, ours is renewed in time."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        while True:
            try:
                async with asyncio.timeout_at(due + _JUST_AFTER_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._cut_revoked()
                await self._give_up_streams()
                if loop.time() < due and not self._lease_is_free:
                    continue
                self._lease_is_free = False
                async with asyncio.timeout(_SLOWEST_SECONDS):
                    due = loop.time() + await self._store.members.beat(self._links.numbers())
                self._have_presented_anew(self._store.members.reclaimed)
            except Exception:
                log.exception("a beat failed")
                due = loop.time() + _AFTER_ERROR_SECONDS

    async def _cut_revoked(self) -> None:
        if not self._revoked:
            return
        self._revoked = False  # before it is looked for: what is revoked meanwhile may not be found
        try:
            await self._revocations.cut()
        except BaseException:
            self._revoked = True
            raise

    def _have_presented_anew(self, hosts: Collection[str]) -> None:
        """The others took us for dead, and these perhaps for lost: let their agents say what they hold."""
        for host in hosts:
            link = self._links.get(host)
            if link is not None:
                log.warning("a host is to say anew what it holds", host=host)
                link.close()

    async def _give_up_streams(self) -> None:
        """End the streams of hosts that have a newer one at another coordinator."""
        doubted = self._doubted & (self._links.hosts() | self._links.elsewhere())
        self._doubted = set()
        if not doubted:
            return
        links = {name: self._links.get(name) for name in doubted}
        try:
            holders = await self._store.hosts.holders(doubted)
        except BaseException:
            self._doubted |= doubted
            raise
        for name, holder in holders.items():
            link = links[name]
            if holder.coordinator in ("", self._store.me):
                self._links.gone(name)
            elif link is not None:  # the one that was open before we looked
                self._links.move(link, holder.agent_run)

    # --- what others tell ---

    def _hear(self, told: Told) -> None:
        changes = told.changes
        if told.lease:
            self._lease_is_free = True
            self._wake.set()
        if changes.catalog or changes.everything:
            self._store.catalog.forget()
        if changes.everything:
            self._waiting.notify_all()
        for instance_id in changes.configured:
            self._waiting.notify(instance_id)
        if changes.hosts or changes.everything:
            self._doubted |= changes.hosts or (self._links.hosts() | self._links.elsewhere())
            self._wake.set()
        if changes.revoked or changes.everything:
            self._revoked = True
            self._wake.set()
        if changes.to_plan or changes.declared:
            self._store.feed.committed(changes)

    def _missed(self) -> None:
        self._hear(Told("", Changes(everything=True), lease=True))


async def _if_it_can(otherwise: str, work: Callable[[], Awaitable[None]]) -> None:
    """Part orderly where the database lets us."""
    try:
        async with asyncio.timeout(_SLOWEST_SECONDS):
            await work()
    except (sa.exc.SQLAlchemyError, HostlerError, OSError) as error:  # TimeoutError is one
        log.warning(f"the database did not take our leave; {otherwise}", error=str(error) or type(error).__name__)
