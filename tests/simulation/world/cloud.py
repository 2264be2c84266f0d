"""A cloud and its provider executable, in place of the process that the coordinator starts for each call."""

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from providers.exec.process import Ending, Finished
from tests.simulation.world.guests import Guest
from tests.simulation.world.life import CURRENT, Life
from tests.simulation.world.scenario import chances

if TYPE_CHECKING:
    from tests.simulation.world.world import World

_NOT_FOUND: Final = 30
_DUPLICATE: Final = 31


class CloudMachine:
    def __init__(self, name: str, pool_id: str, provider_id: str) -> None:
        self.name = name
        self.pool_id = pool_id
        self.provider_id = provider_id
        self.state = "running"
        self.guest: Guest | None = None


class Cloud:
    """Names are unique in it. A call that was begun goes on though the coordinator is killed."""

    def __init__(self, world: "World") -> None:
        self.machines: dict[str, CloudMachine] = {}  # by name
        self.creating = 0
        self._world = world
        self._chance = chances("cloud", world.scenario.seed)
        self._numbers = 0
        self._reserved: set[str] = set()

    def log(self, what: str) -> None:
        self._world.log("cloud", what)

    async def run(self, executable: str, environment: Mapping[str, str], stdin: bytes, seconds: float) -> Finished:
        """Stands for `providers.exec.process.run`."""
        call = self._world.spawn(self._call(environment, stdin, CURRENT.get()))
        try:
            return await asyncio.wait_for(asyncio.shield(call), seconds)
        except TimeoutError:
            call.cancel()
            return Finished(Ending.TIMED_OUT, None, b"", b"", stderr_cut=False)

    async def _call(self, environment: Mapping[str, str], stdin: bytes, caller: Life | None) -> Finished:
        command, instance = environment["GARM_COMMAND"], environment.get("GARM_INSTANCE_ID", "")
        await asyncio.sleep(self._chance.uniform(0.1, 2.0))
        faulty = self._chance.random() < self._world.faults.cloud_call
        fault = self._chance.choice(["before", "after", "slow"]) if faulty else ""
        if fault == "before":
            self.log(f"{command} {instance} fails")
            return _failed(1, "the cloud's API says 500")
        if fault == "slow":
            await asyncio.sleep(self._chance.uniform(10, 400))
        if command == "CreateInstance":
            finished = await self._create(json.loads(stdin), environment["GARM_POOL_ID"], caller)
        elif command == "DeleteInstance":
            finished = self._delete(instance)
        else:
            finished = _answer([_shown(m) for m in self.machines.values() if m.pool_id == environment["GARM_POOL_ID"]])
        if fault == "after":
            self.log(f"{command} {instance} is done, its answer is lost")
            return _failed(1, "the connection was reset")
        return finished

    async def _create(self, told: dict[str, str], pool_id: str, caller: Life | None) -> Finished:
        name = told["name"]
        if name in self.machines or name in self._reserved:
            return _failed(_DUPLICATE, f"there is an instance {name}")
        self._reserved.add(name)
        self.creating += 1
        try:
            self.log(f"creates {name}")
            await asyncio.sleep(self._chance.uniform(0.5, 10.0))
        finally:
            self.creating -= 1
            self._reserved.discard(name)
        self._numbers += 1
        machine = self.machines[name] = CloudMachine(name, pool_id, f"i-{self._numbers:04}")
        if caller is not None and caller.alive:
            self._world.rules.made(name, name, "cloud")
        else:
            # However late it comes, and whatever its successor has done meanwhile: nobody can call it back.
            self.log(f"machine {name} has started, by a call of a coordinator that is no more")
        machine.guest = Guest(self._world, name, told["instance-token"], lambda: self._stopped(machine))
        machine.guest.boot()
        return _answer(_shown(machine))

    def _stopped(self, machine: CloudMachine) -> None:
        """It tells nobody."""
        machine.state = "stopped"

    def power_off_random(self) -> None:
        """One running machine dies."""
        running = [machine for machine in self.machines.values() if machine.state == "running"]
        if running:
            machine = self._chance.choice(running)
            self.log(f"machine {machine.name} dies")
            if machine.guest is not None:
                machine.guest.end()
            self._stopped(machine)

    def _delete(self, instance: str) -> Finished:
        machine = next((m for m in self.machines.values() if instance in (m.name, m.provider_id)), None)
        if machine is None:
            return _failed(_NOT_FOUND, f"there is no instance {instance}")
        self._world.rules.destroyed_by_command(machine.name)
        self.log(f"machine {machine.name} is no more")
        del self.machines[machine.name]
        if machine.guest is not None:
            machine.guest.end()
        return _answer(None)


def _shown(machine: CloudMachine) -> dict[str, str]:
    return {"provider_id": machine.provider_id, "name": machine.name, "status": machine.state, "os_type": "linux"}


def _answer(what: object) -> Finished:
    return Finished(Ending.EXITED, 0, b"" if what is None else json.dumps(what).encode(), b"", stderr_cut=False)


def _failed(code: int, said: str) -> Finished:
    return Finished(Ending.EXITED, code, b"", said.encode(), stderr_cut=False)
