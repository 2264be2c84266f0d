"""What is planned to go wrong in a run, and when. What goes wrong by chance is with whom it happens to."""

import asyncio
import random
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from coordinator.domain.fleet import Admission
from coordinator.store.hosts import UnknownHost
from tests.simulation.world.cloud import Cloud
from tests.simulation.world.hosts import Host
from tests.simulation.world.life import DeadError
from tests.simulation.world.rules import DRAINED
from tests.simulation.world.scenario import chances

if TYPE_CHECKING:
    from tests.simulation.world.world import World


def plan_accidents(world: "World", chance: random.Random) -> None:
    """Put everything on the clock that the scenario counts; `chance` is the world's own."""
    _Accidents(world, chance).plan()


class _Accidents:
    def __init__(self, world: "World", chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self._hosts = list(world.hosts.values())
        self._until = world.scenario.faults.until

    def plan(self) -> None:
        self._cancellations()
        self._cuts()
        self._crashes()
        self._shortages()
        for _ in range(self._world.scenario.faults.drains):
            self._plan_drain(self._chance.choice(self._hosts).spec.name, self._some_time())
        self._deaths()
        self._hangs()
        if self._until:
            self._world.at(self._until, self._world.spare)

    def _some_time(self) -> float:
        return self._chance.uniform(1, self._until)

    def _cancellations(self) -> None:
        for spec in self._world.scenario.jobs:
            if self._chance.random() < self._world.scenario.faults.cancelled:
                self._world.at(spec.time + 1.0 + self._chance.uniform(0, 120), self._cancel_one)

    def _cancel_one(self) -> None:
        queued = [job for job in self._world.forge.jobs.values() if job.status == "queued"]
        if queued:
            self._world.accident("cancelled")
            self._world.forge.cancel(self._chance.choice(queued))

    def _cuts(self) -> None:
        for _ in range(self._world.scenario.faults.cuts):
            host, silently = self._chance.choice(self._hosts), self._chance.random() < 0.5
            self._world.at(self._some_time(), partial(host.cut, silently=silently))

    def _crashes(self) -> None:
        faults, chance = self._world.scenario.faults, self._chance
        for count, accident in ((faults.agent_crashes, Host.crash), (faults.host_crashes, Host.burn)):
            for _ in range(count):
                host, time = chance.choice(self._hosts), self._some_time()
                self._world.at(time, partial(accident, host))
                self._world.at(time + chance.uniform(1, 300), host.start)
        for _ in range(faults.absences):
            host, time = chance.choice(self._hosts), self._some_time()
            self._world.at(time, partial(host.crash, "absences"))
            self._world.at(time + chance.uniform(310, 900), host.start)
        for _ in range(faults.host_losses):
            time = self._some_time()
            self._world.at(time, chance.choice(self._hosts).be_lost)

    def _shortages(self) -> None:
        for _ in range(self._world.scenario.faults.shortages):
            host, time = self._chance.choice(self._hosts), self._some_time()
            self._world.at(time, partial(host.be_short, of_disk=True))
            self._world.at(time + self._chance.uniform(1, 300), partial(host.be_short, of_disk=False))

    def _deaths(self) -> None:
        faults = self._world.scenario.faults
        for _ in range(round(faults.machine_dies * 10)):
            places: list[Host | Cloud] = [*self._hosts, self._world.cloud]
            place = self._chance.choice(places)
            self._world.at(self._some_time(), place.power_off_random)
        for _ in range(faults.orphans):
            host = self._chance.choice(self._hosts)
            self._world.at(self._some_time(), host.come_back_with_an_orphan)

    def _hangs(self) -> None:
        """Some are over before the coordinator takes the agent for gone, some last for longer than its lease."""
        chance = chances("hangs", self._world.scenario.seed)
        for _ in range(self._world.scenario.faults.agent_hangs):
            host, time = chance.choice(self._hosts), chance.uniform(1, self._until)
            self._world.at(time, host.hang)
            self._world.at(time + chance.choice([chance.uniform(5, 40), chance.uniform(60, 300), 900.0]), host.wake)

    # --- hosts that people empty ---

    def _plan_drain(self, host: str, time: float) -> None:
        seconds = self._chance.choice([None, 30.0, 200.0])
        self._world.at(time, lambda: self._world.spawn(self._drain(host, seconds)))
        if self._chance.random() < 0.7:
            over = time + self._chance.uniform(60, 900)
            self._world.at(over, lambda: self._world.spawn(self._uncordon(host)))

    async def _drain(self, host: str, seconds: float | None) -> None:
        world = self._world
        deadline = None if seconds is None else world.now() + timedelta(seconds=seconds)
        world.log(host, f"is to be drained{'' if deadline is None else f' until {deadline:%H:%M:%S}'}")
        if await self._said_of(host, Admission.DRAINING, deadline):
            world.accident("drains")
            world.rules.closed(host, DRAINED, yes=True)
            world.rules.stops[host] = deadline

    async def _uncordon(self, host: str) -> None:
        self._world.log(host, "is opened")
        # From now on it may be open: the planner hears of it before whoever asked for it does.
        self._world.rules.closed(host, DRAINED, yes=False)
        if await self._said_of(host, Admission.OPEN, None):
            self._world.rules.stops.pop(host, None)

    async def _said_of(self, host: str, admission: Admission, deadline: datetime | None) -> bool:
        """False: the coordinator does not know the host yet, or may not have heard; it is asked until it has."""
        while True:
            try:
                await self._world.ask(lambda: self._world.parts._store.upkeep.admit(host, admission, "", deadline))
            except UnknownHost:
                return False
            except DeadError:
                await asyncio.sleep(5)
            else:
                return True
