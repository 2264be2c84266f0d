"""The admin service's part about hosts: list, show, cordon, drain, uncordon, remove."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from coordinator.domain.absence import Presence, presence
from coordinator.domain.fleet import Admission
from coordinator.domain.instance import Instance
from coordinator.domain.resources import Resources
from coordinator.domain.world import Policy
from coordinator.fleet import wire
from coordinator.fleet.links import Links
from coordinator.store.hosts import HostRecord, UnknownHost
from coordinator.store.store import Store
from coordinator.store.upkeep import HostInUse
from hostler.errors import HostlerError
from protos.hostler.v1 import admin_pb2 as pb
from protos.hostler.v1 import fleet_pb2

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[object, object]
_LONGEST_REASON: Final = 1000
_STATUS: Final = {UnknownHost: grpc.StatusCode.NOT_FOUND, HostInUse: grpc.StatusCode.FAILED_PRECONDITION}


class HostAdmin:
    def __init__(self, store: Store, links: Links, policy: Policy, cut_revoked: Callable[[], Awaitable[None]]) -> None:
        """Args: cut_revoked: ends the streams here of hosts that have been revoked."""
        self._store = store
        self._cut_revoked = cut_revoked
        self._links = links
        self._policy = policy

    async def all(self, instances: Sequence[Instance]) -> list[pb.Host]:
        return [self._host(record, instances) for record in await self._store.hosts.all()]

    async def show(self, name: str, context: Context) -> pb.GetHostResponse:
        async with _explained(context):
            host, instances = await self._one(name)
        link = self._links.get(name)
        strays = sorted(link.strays.items()) if link else []
        return pb.GetHostResponse(
            host=host,
            instances=[told(instance) for instance in instances],
            strays=[pb.Stray(instance_id=id_, name=called, reason=why) for id_, (called, why) in strays],
        )

    async def admit(
        self, name: str, admission: Admission, reason: str, context: Context, *, deadline_seconds: int = 0
    ) -> pb.Host:
        deadline = self._store.now() + timedelta(seconds=deadline_seconds) if deadline_seconds else None
        async with _explained(context):
            await self._store.upkeep.admit(name, admission, reason[:_LONGEST_REASON], deadline)
            log.info("a person has said of a host", host=name, admission=admission, reason=reason, deadline=deadline)
            return (await self._one(name))[0]

    async def remove(self, name: str, *, force: bool, context: Context) -> pb.RemoveHostResponse:
        async with _explained(context):
            had = await self._store.upkeep.remove(name, force=force)
        await self._cut_revoked()
        log.warning("host is removed", host=name, lost=had.lost, enrolled=had.enrolled, invitations=had.invitations)
        return pb.RemoveHostResponse(
            lost=had.lost, connected=had.connected, enrolled=had.enrolled, invitations=had.invitations
        )

    async def _one(self, name: str) -> tuple[pb.Host, list[Instance]]:
        record = await self._store.hosts.one(name)
        instances = await self._store.instances.alive(name)
        return self._host(record, instances), instances

    def _host(self, host: HostRecord, instances: Sequence[Instance]) -> pb.Host:
        here = [instance for instance in instances if instance.host == host.name]
        link = self._links.get(host.name)
        return pb.Host(
            name=host.name,
            connected=host.connected,
            arch=host.arch,
            capacity=wire.resources(host.capacity),
            used=wire.resources(sum((instance.resources for instance in here), Resources())),
            drivers=[wire.driver_out(name, info) for name, info in sorted(host.drivers.items()) if not info.out],
            drivers_out=[
                fleet_pb2.DriverOut(name=name, detail=info.out)
                for name, info in sorted(host.drivers.items())
                if info.out
            ],
            agent_version=host.agent_version,
            last_seen=wire.timestamp(link.last_heard if link else host.last_seen),
            load=link.load if link else None,
            presence=self._presence(host),
            disconnected_at=_time(host.disconnected_at),
            admission=host.admission,
            admission_reason=host.admission_reason,
            drain_deadline=_time(host.drain_deadline),
            pressure=wire.pressure_out(host.pressure) if host.pressure.code else None,
            instances=len(here),
        )

    def _presence(self, host: HostRecord) -> Presence:
        return presence(host, self._store.now(), self._policy.host_grace, self._policy.host_lease)


def told(instance: Instance) -> pb.Instance:
    return pb.Instance(
        id=instance.id,
        name=instance.name,
        pool_id=instance.pool_id,
        provider=instance.provider,
        host=instance.host,
        status=instance.status.value,
        runner_status=instance.runner_status.value,
        job_id=instance.job_id,
        created_at=wire.timestamp(instance.created_at),
        fault=instance.fault,
    )


def _time(at: datetime | None) -> Timestamp | None:
    return wire.timestamp(at) if at is not None else None


@asynccontextmanager
async def _explained(context: Context) -> AsyncIterator[None]:
    try:
        yield
    except HostlerError as error:
        await context.abort(_STATUS.get(type(error), grpc.StatusCode.INTERNAL), str(error))
