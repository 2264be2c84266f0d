"""Between the wire's messages and the domain's values."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from coordinator.domain.changes import Phase
from coordinator.domain.fleet import Pool
from coordinator.domain.images import Image, Report
from coordinator.domain.instance import Instance
from coordinator.domain.reconcile import Seen
from coordinator.domain.resources import Resources, devices
from coordinator.runner_api.scripts import Urls
from coordinator.store.hosts import HostRecord, Pressure
from coordinator.store.rows import DriverInfo
from hostler.images import ImageState
from protos.hostler.v1 import fleet_pb2 as pb

PHASES: Final = {
    pb.PHASE_ACCEPTED: Phase.ACCEPTED,
    pb.PHASE_FETCHING: Phase.FETCHING,
    pb.PHASE_IMAGE: Phase.IMAGE,
    pb.PHASE_DISK: Phase.DISK,
    pb.PHASE_STARTED: Phase.STARTED,
    pb.PHASE_STOPPED: Phase.STOPPED,
    pb.PHASE_FAILED: Phase.FAILED,
    pb.PHASE_DELETED: Phase.DELETED,
    pb.PHASE_DELETE_FAILED: Phase.DELETE_FAILED,
}

IMAGE_STATES: Final = {
    pb.IMAGE_STATE_FETCHING: ImageState.FETCHING,
    pb.IMAGE_STATE_HAVE: ImageState.HAVE,
    pb.IMAGE_STATE_FAILED: ImageState.FAILED,
    pb.IMAGE_STATE_GONE: ImageState.GONE,
}

_SEEN: Final = {
    pb.MACHINE_STATE_CREATING: Seen.CREATING,
    pb.MACHINE_STATE_RUNNING: Seen.RUNNING,
    pb.MACHINE_STATE_STOPPED: Seen.STOPPED,
}


def seen(state: pb.MachineState.ValueType) -> Seen:
    """What a newer agent says and we do not know is a machine that is there: it must not be taken for gone."""
    return _SEEN.get(state, Seen.RUNNING)


def time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def resources(amounts: Resources) -> pb.Resources:
    return pb.Resources(
        vcpus=amounts.vcpus,
        memory_mib=amounts.memory_mib,
        disk_gib=amounts.disk_gib,
        devices=[pb.DeviceCount(name=name, count=count) for name, count in amounts.devices],
    )


def host_record(hello: pb.Hello, now: datetime, closed: Pressure) -> HostRecord:
    told = hello.capacity
    counts = devices({one.name: one.count for one in told.devices})
    capacity = Resources(told.vcpus, told.memory_mib, told.disk_gib, counts)
    drivers = {driver.name: _driver(driver) for driver in hello.drivers}
    drivers |= {out.name: DriverInfo("", [], out=out.detail or "it is out") for out in hello.drivers_out}
    return HostRecord(hello.host, hello.arch, capacity, drivers, hello.agent_version, now, pressure=closed)


def _driver(told: pb.Driver) -> DriverInfo:
    emulated = {one.arch: list(one.images) for one in told.emulated}
    return DriverInfo(told.acceleration, list(told.images), told.fetches, told.passes_devices, emulated=emulated)


def driver_out(name: str, info: DriverInfo) -> pb.Driver:
    return pb.Driver(
        name=name,
        acceleration=info.acceleration,
        images=info.images,
        fetches=info.fetches,
        emulated=[pb.Emulated(arch=arch, images=images) for arch, images in sorted(info.emulated.items())],
        passes_devices=info.passes_devices,
    )


def pressure(told: pb.Pressure) -> Pressure:
    """An agent that gives no text is understood all the same."""
    return Pressure(told.code, told.detail or told.code)


def pressure_out(pressure: Pressure) -> pb.Pressure:
    return pb.Pressure(code=pressure.code, detail=pressure.text)


def image_reports(host: str, messages: Iterable[pb.ImageReport]) -> list[Report]:
    """Those whose state is understood."""
    return [
        Report(host, one.sha256, IMAGE_STATES[one.state], one.bytes, one.error_code, one.detail)
        for one in messages
        if one.state in IMAGE_STATES
    ]


def _source(image: Image) -> pb.ImageSource:
    return pb.ImageSource(
        name=image.name, url=image.url, sha256=image.sha256, format=image.format, compression=image.compression
    )


def prefetch_command(image: Image) -> pb.CoordinatorMessage:
    return pb.CoordinatorMessage(prefetch_image=pb.PrefetchImage(image=_source(image)))


def create_command(
    instance: Instance, pool: Pool, image: Image | None, where: Urls, token: str, user_data: bytes
) -> pb.CoordinatorMessage:
    """`image`: the catalogue's; None: the host has one of its own."""
    return pb.CoordinatorMessage(
        create_instance=pb.CreateInstance(
            instance_id=instance.id,
            generation=instance.generation,
            name=instance.name,
            driver=instance.provider,
            image=instance.image,
            resources=resources(instance.resources),
            arch=pool.arch,
            pool_id=instance.pool_id,
            bootstrap=pb.Bootstrap(
                metadata_url=where.metadata, callback_url=where.callback, token=token, user_data=user_data
            ),
            network=pb.NetworkAccess(policy=pool.network.policy, allow=pool.network.allow),
            image_source=_source(image) if image is not None else None,
        )
    )


def delete_command(instance_id: str, generation: int) -> pb.CoordinatorMessage:
    return pb.CoordinatorMessage(delete_instance=pb.DeleteInstance(instance_id=instance_id, generation=generation))


def welcome(version: str, controller_id: str, heartbeat_seconds: int) -> pb.CoordinatorMessage:
    return pb.CoordinatorMessage(
        welcome=pb.Welcome(
            coordinator_version=version, controller_id=controller_id, heartbeat_seconds=heartbeat_seconds
        )
    )


def inventory_request() -> pb.CoordinatorMessage:
    return pb.CoordinatorMessage(inventory_request=pb.InventoryRequest())
