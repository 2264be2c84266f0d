"""Runners at the forge: configured beside the boot, deregistered before a machine is taken away."""

import asyncio
from collections.abc import Awaitable, Callable, Set
from datetime import datetime, timedelta
from typing import Final, TypeVar

import structlog

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import COMING, Instance
from coordinator.engine.budgets import Budgets
from coordinator.forges.contract import (
    Forge,
    ForgeError,
    ForgeRefused,
    ForgeUnavailable,
    RunnerBusy,
    RunnerConfiguration,
    RunnerExists,
)
from coordinator.forges.forges import Forges
from coordinator.runner_api.waiting import Waiting
from coordinator.store.store import Store

log = structlog.get_logger()

Answer = TypeVar("Answer")

_FIRST_WAIT: Final = timedelta(seconds=0.5)
_LONGEST_WAIT: Final = timedelta(seconds=30)
_SPREAD: Final = timedelta(seconds=2)
"""Over how long the calls that a rate limit has held up are spread when it is over."""

_GHOST_LIVES: Final = timedelta(hours=1)
"""How long the forge is asked to remove a runner. GitHub itself removes ephemeral ones that are offline for a day."""


class Registrar:
    def __init__(
        self,
        store: Store,
        forges: Forges,
        waiting: Waiting,
        budgets: Budgets,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._forges = forges
        self._waiting = waiting
        self._budgets = budgets
        self._clock = clock
        self._chance = chance
        self._forgotten: set[str] = set()  # instances whose runners are known to be gone

    async def configure(self, instance: Instance, pool: Pool) -> None:
        """Get the just-in-time configuration of an instance and keep it for its guest.

        A forge that is down is asked again until the bootstrap time is over; one that refuses ends the instance.
        """
        credentials = await self._credentials(instance.entity_id)
        try:
            fresh = await self._store.instances.get(instance.id)
            if fresh is None or fresh.forge_runner_id:
                return  # the snapshot was older than what has been done since
            configuration = await self._configuration(instance, pool, credentials)
        except (ForgeRefused, ForgeUnavailable) as error:
            # Its pool rests, longer each time; that the forge wants nobody says nothing of the job.
            reason = f"no runner configuration: {error}"
            await self._store.instances.retire(instance.id, reason, failed=True, is_try=False, fenced=True)
            return
        finally:
            self._budgets.give_up(instance.id)
        if configuration is None:
            return
        runner_id, files = configuration.runner_id, configuration.files
        is_coming = await self._store.instances.configure_runner(instance.id, runner_id, files)
        self._waiting.notify(instance.id)
        if not is_coming:
            await self._remove_ghost(instance, configuration.runner_id)

    async def _is_coming(self, instance_id: str) -> bool:
        now = await self._store.instances.get(instance_id)
        return now is not None and now.status in COMING

    async def _configuration(self, instance: Instance, pool: Pool, credentials: str) -> RunnerConfiguration | None:
        """None: the instance was sent away before the forge gave one."""

        async def register(forge: Forge) -> RunnerConfiguration:
            await self._until_room(credentials)
            self._budgets.spend(credentials, instance.id)
            try:
                return await forge.configure_runner(instance.name, pool.labels, pool.runner_group)
            finally:
                self._budgets.answered(credentials, self._clock())

        async def anew(forge: Forge) -> RunnerConfiguration | None:
            if not await self._is_coming(instance.id):  # a limit may have held this up for long
                return None
            try:
                return await register(forge)
            except RunnerExists:
                await self._clear(forge, instance)
                return await register(forge)

        deadline = max(instance.bootstrap_deadline, self._clock() + timedelta(seconds=1))
        return await self._patiently(instance.entity_id, anew, deadline)

    # --- asking forges ---

    async def _patiently(self, entity_id: str, ask: Callable[[Forge], Awaitable[Answer]], deadline: datetime) -> Answer:
        """Ask a forge that is down again and again, slower each time, and one that limits us when it says so.

        Raises:
            ForgeUnavailable: it will not be up again before the deadline.
        """
        wait = _FIRST_WAIT
        while True:
            try:
                return await self.ask(entity_id, ask)
            except ForgeUnavailable as error:
                rest = error.retry_after or wait * (1 + self._chance())
                if self._clock() + rest >= deadline:
                    raise
                if error.retry_after is None:
                    await asyncio.sleep(rest.total_seconds())
                    wait = min(wait * 2, _LONGEST_WAIT / 2)

    async def ask(self, entity_id: str, ask: Callable[[Forge], Awaitable[Answer]]) -> Answer:
        """Ask once; not before the forge wants to be asked with these credentials."""
        credentials = await self._credentials(entity_id)
        await self._until_allowed(credentials)
        try:
            return await ask(await self._forges.of(entity_id))
        except ForgeUnavailable as error:
            if error.retry_after is not None:
                self._budgets.pause(credentials, self._clock() + error.retry_after)
            raise

    async def _until_allowed(self, credentials: str) -> None:
        until = self._budgets.paused_until(credentials, self._clock())
        if until is not None:
            await asyncio.sleep((until - self._clock() + _SPREAD * self._chance()).total_seconds())
            await self._until_allowed(credentials)  # the forge may have asked for more time meanwhile

    async def _until_room(self, credentials: str) -> None:
        """Until one more registration is within the limit; nothing runs between this and the next statement."""
        until = self._budgets.full_until(credentials, self._clock())
        if until is not None:
            await asyncio.sleep((until - self._clock()).total_seconds())
            await self._until_room(credentials)

    async def _credentials(self, entity_id: str) -> str:
        return (await self._store.catalog.forge_access(entity_id)).entity.credentials_id

    # --- runners that must go ---

    async def _clear(self, forge: Forge, instance: Instance) -> None:
        """A runner of this name exists: an earlier call's answer was lost, and nobody else has its configuration."""
        runner = await forge.runner_named(instance.name)
        if runner is not None:
            log.info("removing the runner of a lost answer", runner=instance.name)
            await forge.remove_runner(runner.id)

    async def may_go(self, instance: Instance) -> bool:
        """Deregister the runner; False when the forge says that it is busy: the machine is kept.

        Raises:
            ForgeError: the forge could not be asked, so nothing is known.
        """
        if not instance.forge_runner_id:
            return True
        return await self.remove(instance.entity_id, instance.forge_runner_id)

    async def remove(self, entity_id: str, runner_id: int) -> bool:
        """Deregister a runner, or find it gone; False when the forge says that it is busy.

        Raises:
            ForgeError: the forge could not be asked, so nothing is known.
        """
        try:
            await self.ask(entity_id, lambda forge: forge.remove_runner(runner_id))
        except RunnerBusy:
            return False
        return True

    async def forget(self, instance: Instance) -> None:
        """The machine is no more: remove its runner from the forge, if it is there."""
        if instance.id in self._forgotten or instance.job_id:
            return  # the forge itself removes a runner whose job has ended
        await self._remove_ghost(instance, instance.forge_runner_id)
        self._forgotten.add(instance.id)

    def keep_only(self, alive: Set[str]) -> None:
        """Drop what is kept of instances that are no more."""
        self._forgotten &= alive

    async def _remove_ghost(self, instance: Instance, runner_id: int) -> None:
        """Remove a runner without a machine; 0: the one of the instance's name, if a lost answer has left one."""

        async def remove(forge: Forge) -> None:
            if runner_id:
                await forge.remove_runner(runner_id)
            else:
                await self._clear(forge, instance)

        try:
            await self._patiently(instance.entity_id, remove, self._clock() + _GHOST_LIVES)
        except ForgeError as error:
            log.warning("a runner without a machine may be left at the forge", runner=instance.name, error=str(error))
