"""A cloud and its provider executable, in place of the process that the coordinator starts for each call."""

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from providers.exec.process import Ending, Finished
from tests.simulation.world.guests import Guest
from tests.simulation.world.scenario import REFUSED, TAKEN, chances

if TYPE_CHECKING:
    from tests.simulation.world.world import World

_NOT_FOUND: Final = 30
_DUPLICATE: Final = 31
CLOUD_FAULTS: Final = ("before", "after", "slow")
"""A call fails and did nothing, or its answer is lost, or it takes long."""


class CloudMachine:
    def __init__(self, name: str, pool_id: str, provider_id: str) -> None:
        self.name = name
        self.pool_id = pool_id
        self.provider_id = provider_id
        self.state = "running"
        self.guest: Guest | None = None


class SimClaims:
    """In place of the locked files by which a coordinator knows what processes its former lives have left."""

    def __init__(self, cloud: "Cloud") -> None:
        self._cloud = cloud

    @contextmanager
    def claim(self, _: str) -> Iterator[tuple[int, ...]]:
        yield ()

    def is_held(self, name: str, timeout_seconds: float) -> bool:
        return self._cloud.is_making(name, timeout_seconds)


class Cloud:
    """A call that was begun goes on though the coordinator is killed."""

    def __init__(self, world: "World") -> None:
        self.machines: dict[str, CloudMachine] = {}  # by provider id
        self.creating = 0
        self._world = world
        self._chance = chances("cloud", world.scenario.seed)
        self._twins = chances("twins", world.scenario.seed)
        self._numbers = 0
        self._reserved: set[str] = set()
        self._making: dict[str, tuple[asyncio.Task[Finished], float]] = {}  # by name: the call, and since when

    def log(self, what: str) -> None:
        self._world.log("cloud", what)

    def is_making(self, name: str, timeout_seconds: float) -> bool:
        """As the coordinator knows it, where its former lives were on the same machine."""
        call, since = self._making.get(name, (None, 0.0))
        if call is None or call.done() or self._world.scenario.elsewhere:
            return False
        if self._world.loop.time() - since > timeout_seconds:
            call.cancel()
        return True

    async def run(
        self, executable: str, environment: Mapping[str, str], stdin: bytes, seconds: float, _: Collection[int]
    ) -> Finished:
        """Stands for `providers.exec.process.run`."""
        call = self._world.spawn(self._call(environment, stdin))
        if environment["GARM_COMMAND"] == "CreateInstance":
            self._making[json.loads(stdin)["name"]] = (call, self._world.loop.time())
        try:
            return await asyncio.wait_for(asyncio.shield(call), seconds)
        except TimeoutError:
            call.cancel()
            return Finished(Ending.TIMED_OUT, None, b"", b"", stderr_cut=False)

    async def _call(self, environment: Mapping[str, str], stdin: bytes) -> Finished:
        command, instance = environment["GARM_COMMAND"], environment.get("GARM_INSTANCE_ID", "")
        await asyncio.sleep(self._chance.uniform(0.1, 2.0))
        faulty = self._chance.random() < self._world.faults.cloud_call
        fault = self._chance.choice(CLOUD_FAULTS) if faulty else ""
        if fault:
            self._world.accident(f"cloud {fault}")
        if fault == "before":
            self.log(f"{command} {instance} fails")
            return _failed(1, "the cloud's API says 500")
        if fault == "slow":
            await asyncio.sleep(self._chance.uniform(10, 400))
        if command == "CreateInstance":
            finished = await self._create(json.loads(stdin), environment["GARM_POOL_ID"])
        elif command == "DeleteInstance":
            finished = self._delete(instance)
        else:
            finished = _answer([_shown(m) for m in self.machines.values() if m.pool_id == environment["GARM_POOL_ID"]])
        if fault == "after":
            self.log(f"{command} {instance} is done, its answer is lost")
            return _failed(1, "the connection was reset")
        return finished

    async def _create(self, told: dict[str, str], pool_id: str) -> Finished:
        name = told["name"]
        names = self._world.scenario.cloud_names
        if names != TAKEN and (name in self.names() or name in self._reserved):
            return _failed(1 if names == REFUSED else _DUPLICATE, f"there is an instance {name}")
        self._reserved.add(name)
        self.creating += 1
        try:
            self.log(f"creates {name}")
            await asyncio.sleep(self._chance.uniform(0.5, 10.0))
        finally:
            self.creating -= 1
            self._reserved.discard(name)
        machines = [self._make(name, pool_id, told["instance-token"])]
        if self._twins.random() < self._world.faults.cloud_twin:
            self._world.accident("cloud_twin")
            self._world.rules.doubled(name)
            machines.append(self._make(name, pool_id, told["instance-token"]))
        return _answer(_shown(self._twins.choice(machines)))

    def _make(self, name: str, pool_id: str, token: str) -> CloudMachine:
        self._numbers += 1
        provider_id = f"i-{self._numbers:04}"
        machine = self.machines[provider_id] = CloudMachine(name, pool_id, provider_id)
        self._world.rules.made(name, name, "cloud")
        machine.guest = Guest(self._world, name, token, lambda: self._stopped(machine))
        machine.guest.boot()
        return machine

    def names(self) -> list[str]:
        return [machine.name for machine in self.machines.values()]

    def _stopped(self, machine: CloudMachine) -> None:
        """It tells nobody."""
        machine.state = "stopped"

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

    def _delete(self, instance: str) -> Finished:
        machine = next((m for m in self.machines.values() if instance in (m.name, m.provider_id)), None)
        if machine is None:
            return _failed(_NOT_FOUND, f"there is no instance {instance}")
        if machine.guest is not None and machine.guest.is_busy:
            self._world.rules.destroyed_by_command(machine.name)
        self.log(f"machine {machine.name} is no more")
        del self.machines[machine.provider_id]
        if machine.guest is not None:
            machine.guest.end()
        return _answer(None)


def _shown(machine: CloudMachine) -> dict[str, str]:
    return {"provider_id": machine.provider_id, "name": machine.name, "status": machine.state, "os_type": "linux"}


def _answer(what: object) -> Finished:
    return Finished(Ending.EXITED, 0, b"" if what is None else json.dumps(what).encode(), b"", stderr_cut=False)


def _failed(code: int, said: str) -> Finished:
    return Finished(Ending.EXITED, code, b"", said.encode(), stderr_cut=False)
