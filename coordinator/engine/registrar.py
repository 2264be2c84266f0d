"""Runners at the forge: configured beside the boot, deregistered before a machine is taken away."""

from collections.abc import Callable, Set
from datetime import datetime, timedelta
from typing import Final

import stamina
import structlog

from coordinator.domain.fleet import Pool
from coordinator.domain.instance import COMING, Instance
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

_LONGEST_WAIT: Final = timedelta(seconds=30)
_GHOST_LIVES: Final = timedelta(hours=1)
"""How long the forge is asked to remove a runner. GitHub itself removes ephemeral ones that are offline for a day."""


class Registrar:
    def __init__(self, store: Store, forges: Forges, waiting: Waiting, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._forges = forges
        self._waiting = waiting
        self._clock = clock
        self._forgotten: set[str] = set()  # instances whose runners are known to be gone

    async def configure(self, instance: Instance, pool: Pool) -> None:
        """Get the just-in-time configuration of an instance and keep it for its guest.

        A forge that is down is asked again until the bootstrap time is over; one that refuses ends the instance.
        """
        fresh = await self._store.instances.get(instance.id)
        if fresh is None or fresh.status not in COMING or fresh.forge_runner_id:
            return  # the snapshot was older than what has been done since
        try:
            configuration = await self._configuration(instance, pool)
        except (ForgeRefused, ForgeUnavailable) as error:
            await self._store.instances.retire(instance.id, f"no runner configuration: {error}", failed=True)
            return
        await self._store.instances.configure_runner(instance.id, configuration.runner_id, configuration.files)
        self._waiting.notify(instance.id)
        now = await self._store.instances.get(instance.id)
        if now is None or now.status not in COMING:
            # It was sent away meanwhile, perhaps by one who did not see that it had a runner.
            await self._remove_ghost(instance, configuration.runner_id)

    async def _configuration(self, instance: Instance, pool: Pool) -> RunnerConfiguration:
        left = max(instance.bootstrap_deadline - self._clock(), timedelta(seconds=1))
        async for attempt in stamina.retry_context(
            on=ForgeUnavailable, attempts=None, timeout=left, wait_initial=0.5, wait_max=_LONGEST_WAIT
        ):
            with attempt:
                forge = await self._forges.of(instance.entity_id)
                try:
                    return await forge.configure_runner(instance.name, pool.labels, pool.runner_group)
                except RunnerExists:
                    await self._clear(forge, instance)
                    return await forge.configure_runner(instance.name, pool.labels, pool.runner_group)
        raise AssertionError("stamina ends with a result or an error")

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
        try:
            await (await self._forges.of(instance.entity_id)).remove_runner(instance.forge_runner_id)
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
        try:
            async for attempt in stamina.retry_context(
                on=ForgeUnavailable, attempts=None, timeout=_GHOST_LIVES, wait_initial=0.5, wait_max=_LONGEST_WAIT
            ):
                with attempt:
                    forge = await self._forges.of(instance.entity_id)
                    if runner_id:
                        await forge.remove_runner(runner_id)
                    else:
                        await self._clear(forge, instance)
        except ForgeError as error:
            log.warning("a runner without a machine may be left at the forge", runner=instance.name, error=str(error))
