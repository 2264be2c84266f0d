"""The executor for cloud pools: create and delete through provider executables."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import stamina
import structlog

from coordinator.domain.changes import Phase, Step
from coordinator.domain.fleet import Pool
from coordinator.domain.instance import COMING, Instance, RunnerStatus, Status
from coordinator.domain.timeline import Entry
from coordinator.engine.circuits import Circuits
from coordinator.forges.contract import ForgeError
from coordinator.forges.forges import Forges
from coordinator.runner_api import scripts
from coordinator.runner_api.outside import outside_of
from coordinator.runner_api.scripts import Urls
from coordinator.store.instances import PhaseFact
from coordinator.store.store import Store
from coordinator.tokens import InstanceTokens
from hostler.errors import HostlerError
from providers.contract import Arch, ProviderError
from providers.exec.errors import ProviderNotStarted, RequestInvalid, StillMaking
from providers.exec.provider import ExecProvider
from providers.exec.spec import CloudInstance, CloudSpec

log = structlog.get_logger()

_LONGEST_WAIT: Final = timedelta(minutes=5)
_FIRST_LOOK: Final = timedelta(seconds=0.5)
_LONGEST_LOOK: Final = timedelta(seconds=10)


class CloudExecutor:
    def __init__(
        self,
        store: Store,
        forges: Forges,
        clouds: Mapping[str, ExecProvider],
        tokens: InstanceTokens,
        where: Urls,
        clock: Callable[[], datetime],
        circuits: Circuits,
    ) -> None:
        self._store = store
        self._forges = forges
        self.clouds = clouds
        self._tokens = tokens
        self._where = where
        self._clock = clock
        self.circuits = circuits
        self._making: dict[str, asyncio.Event] = {}

    def capacities(self) -> dict[str, int]:
        """How many instances each cloud may be making at once."""
        return {name: cloud.settings.max_concurrent for name, cloud in self.clouds.items()}

    async def create(self, instance: Instance, pool: Pool) -> None:
        """Make the instance. One that a former life of this process may have begun is looked for first."""
        ended = self._making[instance.id] = asyncio.Event()
        try:
            await self._make(instance, pool)
        finally:
            del self._making[instance.id]
            ended.set()

    async def _make(self, instance: Instance, pool: Pool) -> None:
        begun = await self._store.instances.begin(instance.id, Status.CREATING, fenced=True)
        if begun is None:
            return
        begun_before = begun.before
        cloud = self.clouds[instance.provider]
        extra_specs = _extra_specs(pool)
        grace = timedelta(seconds=cloud.settings.appear_seconds) if begun_before else timedelta()
        # A list that cannot be had says nothing of the machine: the errand fails and is begun again.
        made = await self._appears(cloud, instance, pool, grace) if begun_before else None
        try:
            # What has just been begun has not called, and is wanted: a read of the database less on the way of a job.
            if made is None and not (begun_before and await self._has_called(instance)):
                if begun_before and not await self._is_wanted(instance):
                    return
                spec = await self._spec(instance, pool, extra_specs)
                self._store.notes.add([Entry(Step.DISPATCHED, self._clock(), "", instance.id, instance.provider)])
                made = await cloud.create(spec, clean_up=False)  # deleted, if at all, by this instance's own delete
        except StillMaking:
            raise
        except (ProviderNotStarted, RequestInvalid, ForgeError) as error:  # nothing was begun
            await self._fail(instance, error)
            return
        except ProviderError as error:
            # It may be there all the same: made by this call, or by an earlier one that this one met.
            made = await self._appears(cloud, instance, pool, grace)
            if made is None and not await self._has_called(instance):
                await self._fail(instance, error)
                return
            log.warning("a create failed, and its machine is there: kept", instance=instance.name, error=str(error))
        provider_id = made.provider_id if made else ""  # without one it is known by its name
        await self._store.instances.record_phase(
            PhaseFact("", instance.id, Phase.STARTED, self._clock(), provider_id=provider_id)
        )

    async def _fail(self, instance: Instance, error: HostlerError) -> None:
        await self._store.instances.record_phase(PhaseFact("", instance.id, Phase.FAILED, self._clock(), str(error)))

    async def _appears(
        self, cloud: ExecProvider, instance: Instance, pool: Pool, grace: timedelta
    ) -> CloudInstance | None:
        """Look for what has perhaps been made, until it is listed, or nobody makes it any more and the grace is over.

        Names are never used twice: whatever bears it is this very instance. It also ends when the machine has called,
        and when it is not wanted any more.
        """
        ended: datetime | None = None
        wait = _FIRST_LOOK
        while True:
            await self.circuits.passage(instance.provider)
            is_making = cloud.is_making(instance.name)  # asked first: what is made at the very end is listed then
            listed = await cloud.list(pool.id, _extra_specs(pool) or None)
            made = next((one for one in listed if one.name == instance.name and one.status != "error"), None)
            if made is not None or await self._has_called(instance) or not await self._is_wanted(instance):
                return made
            ended = None if is_making else ended or self._clock()
            if ended is not None and self._clock() - ended >= grace:
                return None
            await asyncio.sleep(wait.total_seconds())
            wait = min(wait * 2, _LONGEST_LOOK)

    async def _is_wanted(self, instance: Instance) -> bool:
        now = await self._store.instances.get(instance.id)
        return now is not None and now.status in COMING

    async def _has_called(self, instance: Instance) -> bool:
        """Whether there is a machine whatever its provider says: its runner may have a job by now."""
        now = await self._store.instances.get(instance.id)
        return now is not None and now.status in COMING and now.runner_status is not RunnerStatus.PENDING

    async def _spec(self, instance: Instance, pool: Pool, extra_specs: dict[str, Any]) -> CloudSpec:
        access = await self._store.catalog.forge_access(instance.entity_id)
        token = self._tokens.mint(instance, access.entity)
        where = self._where.but(await self._store.settings.get())
        outside = await outside_of(self._store, pool, access)
        wrapper = scripts.for_provider_library(scripts.wrapper(instance, pool, where, token, outside))
        return CloudSpec(
            name=instance.name,
            tools=tuple(await self._forges.tools(instance.entity_id)),
            repo_url=access.entity.registration_url(access.endpoint),
            callback_url=where.callback,
            metadata_url=where.metadata,
            instance_token=token,
            # A pool's own template wins, as with GARM.
            extra_specs={"runner_install_template": wrapper} | extra_specs,
            github_runner_group=pool.runner_group,
            arch=Arch(pool.arch),
            os_type="windows" if pool.os_type == "windows" else "linux",
            flavor=pool.flavor.name,
            image=pool.image,
            pool_id=pool.id,
            ca_cert_bundle=outside.ca_bundle.encode() or None,
            proxy_config=outside.proxy,
        )

    async def miss(self, instance: Instance) -> None:
        """Say of an instance whose provider is not configured any more that it waits for that, if it does.

        Only its provider can destroy a machine. So, as with GARM, an instance is not forgotten unless that is forced;
        it goes on where it was when the provider is back. One that was not begun has no machine.
        """
        reason = f"provider '{instance.provider}' is not configured any more: put its [[provider]] back"
        fact = PhaseFact("", instance.id, Phase.DELETED, self._clock(), reason)
        if instance.status is Status.PENDING_FORCE_DELETE:
            log.warning("forgotten, for it was forced; it may still run", instance=instance.name, reason=reason)
        elif instance.status is Status.CREATING and not await self._has_called(instance):
            fact = msgspec.structs.replace(fact, phase=Phase.FAILED)
        elif instance.status in (Status.PENDING_DELETE, Status.DELETING) and instance.fault != reason:
            fact = msgspec.structs.replace(fact, phase=Phase.DELETE_FAILED)
        elif instance.status is not Status.PENDING_CREATE:
            return
        log.warning("an instance has lost its provider", instance=instance.name, reason=reason)
        await self._store.instances.record_phase(fact)

    async def delete(self, instance: Instance, pool: Pool) -> None:
        """Destroy the instance; asked again, slower each time, until the provider has done it."""
        making = self._making.get(instance.id)
        if making is not None:
            # A delete that overtakes its create finds nothing, and what is then made stays for ever.
            await making.wait()
        cloud = self.clouds[instance.provider]
        # A process that a former life has left. It has a deadline, and nobody tells of its end.
        while cloud.is_making(instance.name):  # noqa: ASYNC110
            await asyncio.sleep(_FIRST_LOOK.total_seconds())
        if await self._store.instances.begin(instance.id, Status.DELETING, fenced=True) is None:
            return
        async for attempt in stamina.retry_context(
            on=ProviderError, attempts=None, timeout=None, wait_initial=1.0, wait_max=_LONGEST_WAIT
        ):
            with attempt:
                await self.circuits.passage(instance.provider)
                try:
                    await cloud.delete(instance.provider_id or instance.name, pool.id, _extra_specs(pool) or None)
                except ProviderError as error:
                    log.warning("a cloud instance could not be deleted", instance=instance.name, error=str(error))
                    await self._store.instances.record_phase(
                        PhaseFact("", instance.id, Phase.DELETE_FAILED, self._clock(), str(error))
                    )
                    raise
        await self._store.instances.record_phase(PhaseFact("", instance.id, Phase.DELETED, self._clock()))


def _extra_specs(pool: Pool) -> dict[str, Any]:
    return msgspec.json.decode(pool.extra_specs, type=dict[str, Any])
