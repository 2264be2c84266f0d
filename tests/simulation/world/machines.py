"""Machines on a host of a world, and what its agent says of both."""

import asyncio
from collections.abc import Iterable
from typing import Final

from agent.decisions import Holding
from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import Phase
from tests.simulation.world.guests import Guest
from tests.simulation.world.scenario import DRIVER, IMAGE, HostSpec

_STATES: Final = {
    "creating": pb.MACHINE_STATE_CREATING,
    "running": pb.MACHINE_STATE_RUNNING,
    "stopped": pb.MACHINE_STATE_STOPPED,
}


class Machine:
    def __init__(self, instance_id: str, name: str, generation: int, bootstrap: pb.Bootstrap) -> None:
        self.id = instance_id
        self.name = name
        self.generation = generation
        self.token = bootstrap.token
        self.state = "creating"
        self.phases: dict[Phase, pb.PhaseReached] = {}
        self.making: asyncio.Task[None] | None = None
        self.removing: asyncio.Task[None] | None = None
        self.guest: Guest | None = None
        self.gpus = 0

    @property
    def holding(self) -> Holding:
        if self.removing is not None:
            return Holding.REMOVING
        if self.state == "creating":
            return Holding.INTERRUPTED if self.making is None else Holding.MAKING
        return Holding.MADE


def inventory(machines: Iterable[Machine]) -> pb.Inventory:
    return pb.Inventory(
        machines=[
            pb.Machine(
                instance_id=machine.id,
                generation=machine.generation,
                name=machine.name,
                state=_STATES[machine.state],
                phases=machine.phases.values(),
            )
            for machine in machines
        ]
    )


def capacity(spec: HostSpec) -> pb.Resources:
    return pb.Resources(
        vcpus=spec.vcpus,
        memory_mib=spec.memory_mib,
        disk_gib=spec.disk_gib,
        devices=[pb.DeviceCount(name="gpu", count=spec.gpus)] if spec.gpus else [],
    )


def driver(*, fetches: bool) -> pb.Driver:
    return pb.Driver(
        name=DRIVER, acceleration="none", images=[] if fetches else [IMAGE], fetches=fetches, passes_devices=True
    )
