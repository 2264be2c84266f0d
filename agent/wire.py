"""Between the wire's messages and the contract's values. Validates what comes in; nothing else here."""

import re
import uuid
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import ClassVar, Final

from google.protobuf.timestamp_pb2 import Timestamp

from agent.host import Usage
from agent.pressure import Pressure
from hostler.errors import HostlerError
from hostler.images import Compression, ImageFormat, ImageState
from hostler.network import NetworkAccess, NetworkPolicy
from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import Arch, Bootstrap, Driver, InstanceSpec, Machine, MachineState, Phase, Resources
from providers.images.values import ImageSource, ImageStatus

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

PHASES: Final = {
    Phase.ACCEPTED: pb.PHASE_ACCEPTED,
    Phase.FETCHING: pb.PHASE_FETCHING,
    Phase.IMAGE: pb.PHASE_IMAGE,
    Phase.DISK: pb.PHASE_DISK,
    Phase.STARTED: pb.PHASE_STARTED,
    Phase.STOPPED: pb.PHASE_STOPPED,
    Phase.FAILED: pb.PHASE_FAILED,
    Phase.DELETED: pb.PHASE_DELETED,
    Phase.DELETE_FAILED: pb.PHASE_DELETE_FAILED,
}
_STATES: Final = {
    MachineState.CREATING: pb.MACHINE_STATE_CREATING,
    MachineState.RUNNING: pb.MACHINE_STATE_RUNNING,
    MachineState.STOPPED: pb.MACHINE_STATE_STOPPED,
}
_IMAGE_STATES: Final = {
    ImageState.FETCHING: pb.IMAGE_STATE_FETCHING,
    ImageState.HAVE: pb.IMAGE_STATE_HAVE,
    ImageState.FAILED: pb.IMAGE_STATE_FAILED,
    ImageState.GONE: pb.IMAGE_STATE_GONE,
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CommandInvalid(HostlerError):
    """A command of the coordinator that cannot be carried out as it stands."""

    code: ClassVar[str] = "command_invalid"


def check_instance_id(instance_id: str) -> None:
    """Ids become file and machine names, so only the canonical form of a UUID passes.

    Raises:
        CommandInvalid: anything else.
    """
    try:
        canonical = str(uuid.UUID(instance_id))
    except ValueError:
        canonical = ""
    if canonical != instance_id:
        raise CommandInvalid(f"instance id {instance_id[:80]!r} is not a UUID in its usual form")


def offers(hello: pb.Hello) -> dict[str, frozenset[str]]:
    """Drivers, and the architectures of which each makes machines.

    Who is told to use a driver that is out is told that, and not that there is none: so it has them all.
    """
    usable = {driver.name: frozenset({hello.arch, *(one.arch for one in driver.emulated)}) for driver in hello.drivers}
    return usable | {out.name: frozenset(Arch) for out in hello.drivers_out}


def spec(command: pb.CreateInstance, *, drivers: Mapping[str, Collection[str]]) -> InstanceSpec:
    """
    Args:
        drivers: as `offers` says.

    Raises:
        CommandInvalid: no provider could make an instance from it.
    """
    check_instance_id(command.instance_id)
    if command.driver not in drivers:
        raise CommandInvalid(
            f"this host has no driver '{command.driver[:80]}'",
            hint=f"it has {', '.join(drivers) or 'none'}: change the pool's provider",
        )
    if _NAME.fullmatch(command.name) is None:
        raise CommandInvalid(f"name {command.name[:80]!r} is not a host name of letters, digits and '-', 63 at most")
    if command.arch not in list(Arch):
        raise CommandInvalid(f"arch {command.arch[:80]!r} is none of {', '.join(Arch)}")
    if command.arch not in drivers[command.driver]:
        raise CommandInvalid(
            f"this host makes no machines of {command.arch} with {command.driver}, only of "
            f"{' and '.join(sorted(drivers[command.driver]))}",
            hint=f"change the pool's arch, add a host of {command.arch}, or have this one emulate it: "
            f'[libvirt] emulate = ["{command.arch}"] in its agent.toml',
        )
    wanted = command.resources
    if min(wanted.vcpus, wanted.memory_mib, wanted.disk_gib) < 1:
        raise CommandInvalid(
            f"vcpus {wanted.vcpus}, memory_mib {wanted.memory_mib}, disk_gib {wanted.disk_gib}: each must be 1 or more"
        )
    return InstanceSpec(
        instance_id=command.instance_id,
        generation=command.generation,
        name=command.name,
        image=command.image,
        resources=resources_in(wanted),
        arch=Arch(command.arch),
        pool_id=command.pool_id,
        bootstrap=Bootstrap(
            metadata_url=command.bootstrap.metadata_url,
            callback_url=command.bootstrap.callback_url,
            token=command.bootstrap.token,
            user_data=command.bootstrap.user_data,
        ),
        driver=command.driver,
        network=_network(command),
        source=source(command.image_source) if command.HasField("image_source") else None,
    )


def _network(command: pb.CreateInstance) -> NetworkAccess:
    if not command.HasField("network"):
        return NetworkAccess(NetworkPolicy.INTERNET)
    try:
        return NetworkAccess(NetworkPolicy(command.network.policy), tuple(command.network.allow))
    except ValueError as error:
        raise CommandInvalid(
            f"network: {error}", hint="an agent older than its coordinator may not know a policy: upgrade it"
        ) from None


def resources_in(message: pb.Resources) -> Resources:
    return Resources(
        vcpus=message.vcpus,
        memory_mib=message.memory_mib,
        disk_gib=message.disk_gib,
        devices={one.name: one.count for one in message.devices if one.count},
    )


def resources_out(value: Resources) -> pb.Resources:
    return pb.Resources(
        vcpus=value.vcpus,
        memory_mib=value.memory_mib,
        disk_gib=value.disk_gib,
        devices=[pb.DeviceCount(name=name, count=count) for name, count in sorted(value.devices.items())],
    )


def driver_out(driver: Driver) -> pb.Driver:
    return pb.Driver(
        name=driver.name,
        acceleration=driver.acceleration,
        images=driver.images,
        fetches=driver.fetches,
        emulated=[pb.Emulated(arch=arch, images=images) for arch, images in driver.emulated.items()],
        passes_devices=driver.passes_devices,
    )


def driver_is_out(name: str, reason: str) -> pb.DriverOut:
    return pb.DriverOut(name=name, detail=reason)


def source(message: pb.ImageSource) -> ImageSource:
    """
    Raises:
        CommandInvalid: no image can be fetched by it.
    """
    if _SHA256.fullmatch(message.sha256) is None:
        raise CommandInvalid(f"sha256 {message.sha256[:80]!r} is not 64 hexadecimal digits in lower case")
    try:
        return ImageSource(
            name=message.name,
            url=message.url,
            sha256=message.sha256,
            format=ImageFormat(message.format),
            compression=Compression(message.compression),
        )
    except ValueError as error:
        raise CommandInvalid(
            f"image '{message.name}': {error}", hint="an agent older than its coordinator may not know it: upgrade it"
        ) from None


def image_report(status: ImageStatus) -> pb.ImageReport:
    return pb.ImageReport(
        sha256=status.sha256,
        state=_IMAGE_STATES[status.state],
        bytes=status.bytes,
        total_bytes=status.total_bytes,
        error_code=status.error_code,
        detail=status.detail,
    )


def heartbeat(usage: Usage, short: Pressure | None) -> pb.Heartbeat:
    return pb.Heartbeat(
        load=usage.load,
        memory_available_mib=usage.memory_available_mib,
        disk_available_gib=usage.disk_available_gib,
        pressure=pressure(short),
    )


def pressure(short: Pressure | None) -> pb.Pressure | None:
    return None if short is None else pb.Pressure(code=short.code, detail=short.detail)


def inventory(machines: list[Machine]) -> pb.Inventory:
    return pb.Inventory(machines=[_machine(machine) for machine in machines])


def timestamp(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


def _machine(machine: Machine) -> pb.Machine:
    return pb.Machine(
        instance_id=machine.instance_id,
        generation=machine.generation,
        name=machine.name,
        state=_STATES[machine.state],
        phases=[pb.PhaseReached(phase=PHASES[phase], at=timestamp(at)) for phase, at in machine.phases.items()],
    )
