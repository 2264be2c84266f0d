"""The executor for cloud pools: create and delete through provider executables."""

import asyncio
import base64
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
from coordinator.forges.contract import ForgeError
from coordinator.forges.forges import Forges
from coordinator.runner_api import scripts
from coordinator.runner_api.scripts import Urls
from coordinator.store.instances import PhaseFact
from coordinator.store.store import Store
from coordinator.tokens import InstanceTokens
from providers.contract import Arch, ProviderError
from providers.exec.errors import InstanceExists
from providers.exec.provider import ExecProvider
from providers.exec.spec import CloudInstance, CloudSpec

log = structlog.get_logger()

_LONGEST_WAIT: Final = timedelta(minutes=5)


class CloudExecutor:
    def __init__(
        self,
        store: Store,
        forges: Forges,
        clouds: Mapping[str, ExecProvider],
        tokens: InstanceTokens,
        where: Urls,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._forges = forges
        self.clouds = clouds
        self._tokens = tokens
        self._where = where
        self._clock = clock
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
        begun_before = instance.status is Status.CREATING
        if await self._store.instances.begin(instance.id, Status.CREATING) is None:
            return
        cloud = self.clouds[instance.provider]
        extra_specs = _extra_specs(pool)
        # A list that cannot be had says nothing of the machine: the errand fails and is begun again.
        made = await self._find(cloud, instance, pool, extra_specs) if begun_before else None
        try:
            if made is None:
                spec = await self._spec(instance, pool, extra_specs)
                self._store.notes.add([Entry(Step.DISPATCHED, self._clock(), "", instance.id, instance.provider)])
                made = await self._create(cloud, spec, pool, extra_specs)
        except (ProviderError, ForgeError) as error:
            if not await self._has_called(instance):
                failed = PhaseFact("", instance.id, Phase.FAILED, self._clock(), str(error))
                await self._store.instances.record_phase(failed)
                return
            log.warning("a create failed, and its machine has called: kept", instance=instance.name, error=str(error))
        provider_id = made.provider_id if made else ""  # without one it is known by its name
        await self._store.instances.record_phase(
            PhaseFact("", instance.id, Phase.STARTED, self._clock(), provider_id=provider_id)
        )

    async def _has_called(self, instance: Instance) -> bool:
        """Whether there is a machine whatever its provider says: its runner may have a job by now."""
        now = await self._store.instances.get(instance.id)
        return now is not None and now.status in COMING and now.runner_status is not RunnerStatus.PENDING

    async def _create(
        self, cloud: ExecProvider, spec: CloudSpec, pool: Pool, extra_specs: dict[str, Any]
    ) -> CloudInstance:
        try:
            return await cloud.create(spec, clean_up=False)  # deleted, if at all, by this instance's own delete
        except InstanceExists:
            # Names are never used twice: it is this very instance, made by a call whose answer was lost.
            made = await self._named(cloud, spec.name, pool, extra_specs)
            if made is None:
                raise
            return made

    async def _find(
        self, cloud: ExecProvider, instance: Instance, pool: Pool, extra_specs: dict[str, Any]
    ) -> CloudInstance | None:
        return await self._named(cloud, instance.name, pool, extra_specs)

    async def _named(
        self, cloud: ExecProvider, name: str, pool: Pool, extra_specs: dict[str, Any]
    ) -> CloudInstance | None:
        listed = await cloud.list(pool.id, extra_specs or None)
        return next((one for one in listed if one.name == name and one.status != "error"), None)

    async def _spec(self, instance: Instance, pool: Pool, extra_specs: dict[str, Any]) -> CloudSpec:
        access = await self._store.catalog.forge_access(instance.entity_id)
        token = self._tokens.mint(instance, access.entity)
        wrapper = base64.b64encode(scripts.wrapper(instance, self._where, token).encode()).decode()
        return CloudSpec(
            name=instance.name,
            tools=tuple(await self._forges.tools(instance.entity_id)),
            repo_url=f"{access.endpoint.base_url}/{access.entity.full_name}",
            callback_url=self._where.callback,
            metadata_url=self._where.metadata,
            instance_token=token,
            # A pool's own template wins, as with GARM.
            extra_specs={"runner_install_template": wrapper} | extra_specs,
            github_runner_group=pool.runner_group,
            arch=Arch(pool.arch),
            os_type="windows" if pool.os_type == "windows" else "linux",
            flavor=pool.flavor,
            image=pool.image,
            pool_id=pool.id,
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
        if await self._store.instances.begin(instance.id, Status.DELETING) is None:
            return
        cloud = self.clouds[instance.provider]
        async for attempt in stamina.retry_context(
            on=ProviderError, attempts=None, timeout=None, wait_initial=1.0, wait_max=_LONGEST_WAIT
        ):
            with attempt:
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
