"""The admin service: what the `hostler` client asks for."""

from collections.abc import AsyncIterator, Iterable
from typing import Final

import grpc
import structlog

from coordinator.admin_backup import BackupAdmin
from coordinator.admin_explain import explained
from coordinator.admin_hosts import HostAdmin, told
from coordinator.admin_images import ImageAdmin
from coordinator.admin_providers import ProviderAdmin
from coordinator.declare import Declaration, TemplateDeclaration
from coordinator.declare_base import Refused
from coordinator.declare_plan import Step
from coordinator.domain.fleet import Admission, ForgeKind
from coordinator.domain.job import Job
from coordinator.domain.timeline import Entry
from coordinator.engine.engine import Engine
from coordinator.exporting import exported, keys
from coordinator.fleet import wire
from coordinator.store.store import Store
from coordinator.templates.check import check
from coordinator.templates.language import TemplateInvalid
from hostler import __version__, config
from hostler.errors import ConfigError, HostlerError
from protos.hostler.v1 import admin_pb2 as pb
from protos.hostler.v1.admin_pb2_grpc import AdminServicer

log = structlog.get_logger()

_DOCUMENT: Final = "document"


class AdminService(AdminServicer):
    def __init__(
        self,
        store: Store,
        hosts: HostAdmin,
        images: ImageAdmin,
        engine: Engine,
        providers: ProviderAdmin,
        backup: BackupAdmin,
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._engine = engine
        self._providers = providers
        self._images = images
        self._backup = backup

    async def FleetStatus(
        self, request: pb.FleetStatusRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.FleetStatusResponse:
        instances = await self._store.instances.alive()
        return pb.FleetStatusResponse(
            coordinator_version=__version__,
            controller_id=self._store.controller_id,
            hosts=await self._hosts.all(instances),
            instances=[told(instance) for instance in instances],
        )

    async def Apply(
        self, request: pb.ApplyRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.ApplyResponse:
        try:
            declared = config.parse(request.document, Declaration, _DOCUMENT)
            await _check(declared.template)
            plan = await self._store.catalog.apply(
                declared, self._providers.names, prune=request.prune, dry_run=request.dry_run
            )
        except Refused as error:
            at = f"{_DOCUMENT}: key '{error.place}': " if error.place else ""
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{at}{error}")
        except HostlerError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.ApplyResponse(changes=plan.lines, steps=map(_step, plan.steps), unserved=plan.unserved)

    async def Export(
        self, request: pb.ExportRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.ExportResponse:
        return pb.ExportResponse(
            document=exported(await self._store.catalog.declared()),
            keys=keys(Declaration),
            forges=[kind.value for kind in ForgeKind],
            providers=sorted(self._providers.names),
        )

    async def ListJobs(
        self, request: pb.ListJobsRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.ListJobsResponse:
        await self._engine.consider()
        names = await self._entity_names()
        jobs = await self._store.history.jobs(completed=request.all)
        return pb.ListJobsResponse(jobs=[self._job(job, names, brief=True) for job in jobs])

    async def GetJob(self, request: pb.GetJobRequest, context: "grpc.aio.ServicerContext[object, object]") -> pb.Job:
        job = await self._one_job(request.id, context)
        names = await self._entity_names()
        await self._store.notes.flush()
        await self._engine.consider()
        answer = self._job(job, names)
        answer.timeline.extend(_entry(entry) for entry in await self._store.history.timeline(job))
        return answer

    async def ExplainJob(
        self, request: pb.ExplainJobRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.Explanation:
        job = await self._one_job(request.id, context)
        await self._engine.consider()
        names = await self._entity_names()
        return explained(self._engine.explain(job.id), self._job(job, names))

    async def Watch(
        self, request: pb.WatchRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> AsyncIterator[pb.TimelineEntry]:
        async for entry in self._store.feed.watch():
            yield _entry(entry)

    async def GetConsole(
        self, request: pb.GetConsoleRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.GetConsoleResponse:
        instance = await self._store.history.instance(request.instance)
        if instance is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no instance '{request.instance}'")
        console = await self._store.hosts.console(instance.id)
        if console is None:
            reason = f"the console of '{instance.name}' is not here: it is kept when the machine is destroyed"
            await context.abort(grpc.StatusCode.NOT_FOUND, reason)
        data, truncated = console
        return pb.GetConsoleResponse(data=data, truncated=truncated)

    async def ListImages(
        self, request: pb.ListImagesRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.ListImagesResponse:
        return await self._images.catalogue()

    async def GetImage(
        self, request: pb.GetImageRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.GetImageResponse:
        try:
            return await self._images.get(request.name)
        except HostlerError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))

    async def RemoveImage(
        self, request: pb.RemoveImageRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.RemoveImageResponse:
        try:
            return await self._images.remove(request.name, request.arch)
        except HostlerError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    async def PrefetchImages(
        self, request: pb.PrefetchImagesRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.PrefetchImagesResponse:
        try:
            return await self._images.prefetch(request.name, request.host)
        except HostlerError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    # --- providers ---

    async def ListProviders(
        self, request: pb.ListProvidersRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.ListProvidersResponse:
        return await self._providers.all()

    async def CheckProvider(
        self, request: pb.CheckProviderRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.CheckProviderResponse:
        try:
            return await self._providers.check(request.name)
        except HostlerError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))

    # --- backup ---

    async def Backup(
        self, request: pb.BackupRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> AsyncIterator[pb.BackupPiece]:
        try:
            async for piece in self._backup.taken():
                yield piece
        except HostlerError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    # --- hosts ---

    async def ListHosts(
        self, request: pb.ListHostsRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.ListHostsResponse:
        return pb.ListHostsResponse(hosts=await self._hosts.all(await self._store.instances.alive()))

    async def GetHost(
        self, request: pb.GetHostRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.GetHostResponse:
        return await self._hosts.show(request.name, context)

    async def CordonHost(
        self, request: pb.CordonHostRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.Host:
        return await self._hosts.admit(request.name, Admission.CORDONED, request.reason, context)

    async def DrainHost(
        self, request: pb.DrainHostRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.Host:
        seconds = request.deadline_seconds
        return await self._hosts.admit(
            request.name, Admission.DRAINING, request.reason, context, deadline_seconds=seconds
        )

    async def UncordonHost(
        self, request: pb.UncordonHostRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.Host:
        return await self._hosts.admit(request.name, Admission.OPEN, "", context)

    async def RemoveHost(
        self, request: pb.RemoveHostRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> pb.RemoveHostResponse:
        return await self._hosts.remove(request.name, force=request.force, context=context)

    async def _one_job(self, job_id: str, context: "grpc.aio.ServicerContext[object, object]") -> Job:
        found = await self._store.history.jobs_called(job_id)
        if not found:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no job '{job_id}'")
        if len(found) > 1:
            names = await self._entity_names()
            each = ", ".join(f"{job.id} of {names.get(job.entity_id, job.entity_id)}" for job in found)
            reason = f"several repositories speak of a job '{job_id}'; ask for one of {each}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        return found[0]

    async def _entity_names(self) -> dict[str, str]:
        return {entity.id: entity.full_name for entity in await self._store.catalog.entities()}

    def _job(self, job: Job, names: dict[str, str], *, brief: bool = False) -> pb.Job:
        return pb.Job(
            id=job.id,
            forge_job_id=job.key.forge_job_id,
            attempt=job.key.attempt,
            entity=names.get(job.entity_id, ""),
            name=job.name,
            labels=sorted(job.labels),
            status=job.status.value,
            conclusion=job.conclusion,
            runner_name=job.runner_name,
            instance_id=job.instance_id,
            waiting_reason=self._engine.waiting_reason(job.id, brief=brief),
            queued_at=wire.timestamp(job.queued_at),
        )


async def _check(templates: Iterable[TemplateDeclaration]) -> None:
    """
    Raises:
        ConfigError: one of them makes no script that can be read.
    """
    for index, one in enumerate(templates):
        try:
            await check(one.data, one.forge.value, one.os_type)
        except TemplateInvalid as error:
            raise ConfigError(f"{_DOCUMENT}: key 'template[{index}].data': {error}") from None


def _step(step: Step) -> pb.ApplyStep:
    differences = [pb.Difference(key=one.key, before=one.before, after=one.after) for one in step.differences]
    return pb.ApplyStep(action=step.action.value, kind=step.kind, name=step.name, differences=differences)


def _entry(entry: Entry) -> pb.TimelineEntry:
    return pb.TimelineEntry(
        job_id=entry.job_id,
        instance_id=entry.instance_id,
        step=entry.step.value,
        at=wire.timestamp(entry.at),
        detail=entry.detail,
    )
