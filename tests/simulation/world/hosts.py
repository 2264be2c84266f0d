"""Hosts with their machines, and the agents on them, which speak `hostler.v1` and keep to the real agent's rules."""

import asyncio
from typing import TYPE_CHECKING, Final

from agent.backoff import Backoff
from agent.decisions import Answer, Held, on_create, on_delete
from agent.endings import Ending
from coordinator.domain.changes import REFUSED
from coordinator.fleet import wire
from coordinator.fleet.silence import HEARTBEAT_SECONDS
from hostler import __version__
from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import Phase
from tests.simulation.world.guests import Guest
from tests.simulation.world.images import CODE, HostImages
from tests.simulation.world.machines import Machine, capacity, driver, inventory
from tests.simulation.world.rules import SHORT
from tests.simulation.world.scenario import IMAGE_SHA256, HostSpec, chances
from tests.simulation.world.stream import Stream

if TYPE_CHECKING:
    from tests.simulation.world.world import World

_RECONNECT: Final = Backoff(first_seconds=0.5, most_seconds=10.0)
_PHASES: Final = {Phase(phase.value): number for number, phase in wire.PHASES.items()}


class Host:
    """A host, and its agent when that is up. The machines and the endings outlive the agent."""

    def __init__(self, world: "World", spec: HostSpec) -> None:
        self.spec = spec
        self.machines: dict[str, Machine] = {}
        self._endings: dict[str, Ending] = {}
        self._world = world
        self._chance = chances(spec.name, world.scenario.seed)
        self._fetching = world.scenario.faults.image_missing > 0
        self.images = HostImages(
            lambda: world.faults,
            chances(f"{spec.name} images", world.scenario.seed),
            self._tell_of_image,
            world.accident,
        )
        if chances(f"{spec.name} has", world.scenario.seed).random() >= world.scenario.faults.image_missing:
            self.images.has.add(IMAGE_SHA256)
        self._repeats = chances(f"{spec.name} repeats", world.scenario.seed)
        self._outbox: dict[int, pb.AgentMessage] = {}
        self._sequence = 0
        self._runs = 0
        self._agent: asyncio.Task[None] | None = None
        self._stream: Stream | None = None
        self.is_gone = False  # for good
        self.short = False
        self._heard_from = float("inf")  # by what it says: a stream is there, and it does not hang
        self._awake = asyncio.Event()
        self._awake.set()

    def log(self, what: str) -> None:
        self._world.log(self.spec.name, what)

    # --- the agent's process ---

    def start(self) -> None:
        if self._agent is None and not self.is_gone:
            self._runs += 1
            self.log("agent starts")
            self._agent = self._world.spawn(self._serve())

    def crash(self, accident: str = "agent_crashes") -> None:
        """The agent's process is killed: machines stay, what it was doing stops, what it had not said is lost."""
        if self._agent is None:
            return
        self._world.accident(accident)
        self.log("agent is killed")
        self._agent.cancel()
        self._agent = None
        if self._stream is not None:
            self._stream.hang_up()
            self._stream = None
        self._outbox.clear()
        self._awake.set()
        self.images.crash()
        for machine in self.machines.values():
            for work in (machine.making, machine.removing):
                if work is not None:
                    work.cancel()
            machine.making = machine.removing = None

    def burn(self, accident: str = "host_crashes") -> None:
        """The host itself goes down, and nothing that ran on it comes back."""
        self.crash(accident)
        self.log(f"is gone, with {len(self.machines)} machines")
        for machine in list(self.machines.values()):
            self._drop(machine)
            self._world.rules.lost(machine.id)

    def be_lost(self) -> None:
        """It goes down, and never comes back."""
        self.burn("host_losses")
        self.is_gone = True

    def come_back_with_an_orphan(self) -> None:
        """The agent's process is killed, and the next one finds a machine of which nobody has heard."""
        if self.is_gone:
            return
        self.crash("orphans")
        orphan = Machine(self._world.new_id(), "hostler-0123456789ab", 1, pb.Bootstrap())
        orphan.state = "running"
        orphan.phases[Phase.STARTED] = pb.PhaseReached(phase=pb.PHASE_STARTED, at=wire.timestamp(self._world.now()))
        self.machines[orphan.id] = orphan
        self.log(f"has a machine {orphan.id} that nobody knows")
        self.start()

    def cut(self, *, silently: bool) -> None:
        if self._stream is not None:
            self._world.accident("cuts, silent" if silently else "cuts")
            self.log("stream is cut" + (" silently" if silently else ""))
            self._stream.cut(silently=silently)

    def hang(self) -> None:
        """The agent does nothing any more, and its stream stays open: what answers there is not the agent itself."""
        if self._agent is not None and self._stream is not None and self._awake.is_set():
            self._world.accident("agent_hangs")
            self.log("agent hangs")
            self._awake.clear()

    def wake(self) -> None:
        """It goes on where it was: with commands that have come meanwhile, and that may be old."""
        if self._awake.is_set():
            return
        self.log("agent goes on")
        if self._stream is not None:
            for waiting in self._outbox.values():
                self._stream.up.put(waiting)
        self._heard_from = self._world.loop.time()
        self._awake.set()

    async def _serve(self) -> None:
        attempt = 0
        while True:
            life = self._world.life
            if life is not None and life.alive and self._world.parts is not None:
                self._heard_from = float("inf")
                self._stream = stream = Stream(self._world.parts.fleet, life, self._chance)
                heart = self._world.spawn(self._beat(stream))
                try:
                    if await self._converse(stream):
                        attempt = 0
                finally:
                    heart.cancel()
                self._stream = None
            await asyncio.sleep(_RECONNECT.delay(attempt, self._chance))
            await self._awake.wait()
            attempt += 1

    async def _converse(self, stream: Stream) -> bool:
        """One stream until it ends; whether the coordinator had answered."""
        stream.up.put(pb.AgentMessage(hello=self._hello()))
        welcomed = False
        async for message in stream.down:
            await self._awake.wait()
            match message.WhichOneof("message"):
                case "welcome":
                    welcomed = True
                    self._heard_from = self._world.loop.time()
                    self.log("connected")
                    for waiting in list(self._outbox.values()):
                        stream.up.put(waiting)
                case "create_instance":
                    self._create(message.create_instance)
                case "delete_instance":
                    self._delete(message.delete_instance)
                case "inventory_request":
                    stream.up.put(pb.AgentMessage(inventory=inventory(self.machines.values())))
                case "event_ack":
                    self._acknowledged(message.event_ack.sequence)
        return welcomed

    async def _beat(self, stream: Stream) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._awake.wait()
            stream.up.put(pb.AgentMessage(heartbeat=pb.Heartbeat(pressure=self._pressure())))

    def _acknowledged(self, number: int) -> None:
        for sequence in [s for s in self._outbox if s <= number]:
            message = self._outbox.pop(sequence)
            if self._repeats.random() < self._world.faults.event_again:
                self._world.spawn(self._say_again(message, self._repeats.choice([0.5, 30.0, 400.0])))

    async def _say_again(self, message: pb.AgentMessage, seconds: float) -> None:
        """Though it is acknowledged: on whichever stream, and whatever has become of the instance."""
        await asyncio.sleep(seconds)
        if self._stream is not None and not self._stream.up.cut and self._awake.is_set():
            self._world.accident("event_again")
            self.log(f"says {pb.Phase.Name(message.event.phase)} of {message.event.instance_id} again")
            self._stream.up.put(message)

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            host=self.spec.name,
            agent_version=__version__,
            arch="amd64",
            capacity=capacity(self.spec),
            drivers=[driver(fetches=self._fetching)],
            images=self.images.reports() if self._fetching else [],
            inventory=inventory(self.machines.values()),
            pressure=self._pressure(),
            agent_run=f"{self.spec.name}-run-{self._runs}",
        )

    def _pressure(self) -> pb.Pressure | None:
        return pb.Pressure(code="disk_low", detail="1 GiB of disk available") if self.short else None

    def be_short(self, *, of_disk: bool) -> None:
        self.log("is short of disk" if of_disk else "has enough disk again")
        self.short = of_disk
        if of_disk and self._stream is not None:
            self._world.accident("shortages")
        if self._stream is not None and self._awake.is_set():
            self._stream.up.put(pb.AgentMessage(heartbeat=pb.Heartbeat(pressure=self._pressure())))
        self._world.rules.closed(self.spec.name, SHORT, yes=of_disk)

    @property
    def heard_since(self) -> float:
        """Since when all that its agent says is heard, by the simulated clock; never, while it is not."""
        heard = self._stream is not None and not self._stream.up.cut and self._awake.is_set()
        return self._heard_from if heard else float("inf")

    # --- commands ---

    def _held(self, instance_id: str) -> Held | None:
        machine = self.machines.get(instance_id)
        return None if machine is None else Held(machine.holding, machine.generation)

    def _create(self, command: pb.CreateInstance) -> None:
        instance_id, ended = command.instance_id, self._endings.get(command.instance_id)
        answer = on_create(command.generation, held=self._held(instance_id), ended=ended)
        self.log(f"told to create {command.name}: {answer.name.lower()}")
        if answer is Answer.BEGIN and instance_id not in self.machines and self.short:
            self._refuse(command)
        elif answer is Answer.BEGIN:
            self._world.rules.told_to_create(instance_id, command.name, self.spec.name)
            machine = self.machines.get(instance_id)
            if machine is None:
                machine = Machine(instance_id, command.name, command.generation, command.bootstrap)
                self.machines[instance_id] = machine
            machine.gpus = sum(one.count for one in command.resources.devices)
            machine.making = self._world.spawn(self._make(machine, command.image_source.sha256))
        elif answer is Answer.REPEAT_PHASES:
            for phase in list(self.machines[instance_id].phases):
                self._say(self.machines[instance_id], phase)
        elif answer is Answer.REPEAT_FAILURE and ended is not None:
            self._event(instance_id, ended.generation, Phase.FAILED, ended.detail, code=ended.error_code)

    def _refuse(self, command: pb.CreateInstance) -> None:
        ending = Ending(
            command.instance_id, command.generation, Phase.FAILED, self._world.now(), "short of disk", REFUSED
        )
        self._endings[ending.instance_id] = ending
        self._event(ending.instance_id, ending.generation, Phase.FAILED, ending.detail, code=REFUSED)

    async def _make(self, machine: Machine, sha256: str) -> None:
        faults = self._world.faults
        self._reach(machine, Phase.ACCEPTED)
        if sha256 and sha256 not in self.images.has:
            self._world.accident("image_missing")
            self._reach(machine, Phase.FETCHING)
            if not await self.images.fetched(sha256):
                self._fail(machine, CODE)
                return
            self._reach(machine, Phase.IMAGE)
        await self._pause(0.02, 2.0)
        if self._chance.random() < faults.create_hangs:
            self._world.accident("create_hangs")
            self.log(f"making {machine.name} hangs")
            await asyncio.Event().wait()
        if self._chance.random() < faults.create_fails:
            self._world.accident("create_fails")
            self._fail(machine)
            return
        self._reach(machine, Phase.DISK)
        await self._pause(0.1, 5.0)
        machine.state, machine.making = "running", None
        self._world.rules.made(machine.id, machine.name, self.spec.name)
        self._reach(machine, Phase.STARTED)
        machine.guest = Guest(self._world, machine.name, machine.token, lambda: self._stopped(machine))
        machine.guest.boot()

    def _tell_of_image(self, report: pb.ImageReport) -> None:
        self.log(f"image {report.sha256[:6]}: {pb.ImageState.Name(report.state)}")
        if self._stream is not None:
            self._stream.up.put(pb.AgentMessage(image_report=report))

    def _fail(self, machine: Machine, code: str = "failed") -> None:
        self.log(f"making {machine.name} failed")
        del self.machines[machine.id]
        ending = Ending(machine.id, machine.generation, Phase.FAILED, self._world.now(), "no disk space", code)
        self._endings[machine.id] = ending
        self._event(machine.id, machine.generation, Phase.FAILED, ending.detail, code=code)

    def _stopped(self, machine: Machine) -> None:
        """It powered itself off, or died. Without an agent nobody notices now; the inventory tells later."""
        if self.machines.get(machine.id) is machine and machine.state == "running":
            machine.state = "stopped"
            self._reach(machine, Phase.STOPPED)

    def _delete(self, command: pb.DeleteInstance) -> None:
        instance_id = command.instance_id
        machine, ended = self.machines.get(instance_id), self._endings.get(instance_id)
        answer = on_delete(command.generation, held=self._held(instance_id), ended=ended)
        self.log(f"told to delete {machine.name if machine else instance_id}: {answer.name.lower()}")
        if answer is not Answer.BEGIN:
            return
        self._endings[instance_id] = Ending(instance_id, command.generation, Phase.DELETED, self._world.now(), "", "")
        if machine is None:
            self._event(instance_id, command.generation, Phase.DELETED)
            return
        machine.generation = max(machine.generation, command.generation)
        if machine.making is not None:
            machine.making.cancel()
            machine.making = None
        machine.removing = self._world.spawn(self._remove(machine))

    async def _pause(self, least: float, most: float) -> None:
        """What the agent does takes some time, and ends no sooner than the agent goes on."""
        await asyncio.sleep(self._chance.uniform(least, most))
        await self._awake.wait()

    async def _remove(self, machine: Machine) -> None:
        await self._pause(0.02, 2.0)
        while self._chance.random() < self._world.faults.delete_fails:
            self._world.accident("delete_fails")
            self._event(machine.id, machine.generation, Phase.DELETE_FAILED, "busy")
            await self._pause(1.0, 10.0)
        self._world.rules.destroyed_by_command(machine.name, self.spec.name)
        self._drop(machine)
        self._event(machine.id, machine.generation, Phase.DELETED)

    def _drop(self, machine: Machine) -> None:
        self.machines.pop(machine.id, None)
        self.log(f"machine {machine.name} is no more")
        if machine.guest is not None:
            machine.guest.end()

    # --- what is said ---

    def _reach(self, machine: Machine, phase: Phase) -> None:
        machine.phases[phase] = pb.PhaseReached(phase=_PHASES[phase], at=wire.timestamp(self._world.now()))
        self._say(machine, phase)

    def _say(self, machine: Machine, phase: Phase) -> None:
        self._event(machine.id, machine.generation, phase, at=machine.phases[phase])

    def _event(
        self,
        instance_id: str,
        generation: int,
        phase: Phase,
        detail: str = "",
        at: pb.PhaseReached | None = None,
        code: str = "",
    ) -> None:
        if self._agent is None:
            return
        self._sequence += 1
        event = pb.InstanceEvent(
            sequence=self._sequence,
            instance_id=instance_id,
            generation=generation,
            phase=_PHASES[phase],
            at=at.at if at is not None else wire.timestamp(self._world.now()),
            detail=detail,
            error_code=code,
        )
        message = self._outbox[self._sequence] = pb.AgentMessage(event=event)
        if self._stream is not None and self._awake.is_set():
            self._stream.up.put(message)

    def power_off_random(self) -> None:
        """One running machine dies."""
        running = [machine for machine in self.machines.values() if machine.state == "running"]
        if running:
            machine = self._chance.choice(running)
            self._world.accident("machine_dies")
            self.log(f"machine {machine.name} dies")
            if machine.guest is not None:
                machine.guest.end()
            self._stopped(machine)
