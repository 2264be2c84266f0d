"""What providers of real machines share: creates that hang hold nobody else up."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from providers.contract import Arch, Bootstrap, InstanceSpec, Machine, MachineState, Phase, Report, Resources
from providers.steady import SteadyProvider
from providers.threads import Threads

THREADS = 4


class Hypervisor:
    def __init__(self) -> None:
        self._threads = Threads("test", THREADS)

    async def call(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._threads.run(lambda: job(self, *args, **kwargs))

    async def close(self) -> None: ...


class Machines:
    """Creates go on only while `may_make` is set."""

    def __init__(self) -> None:
        self.unfinished: set[str] = set()
        self.may_make = threading.Event()
        self.being_made = 0
        self.made: dict[str, Machine] = {}

    def create(self, _: Hypervisor, wanted: InstanceSpec, report: Report) -> Machine:
        report(Phase.ACCEPTED)
        self.being_made += 1
        self.may_make.wait(30)
        self.being_made -= 1
        machine = Machine(wanted.instance_id, wanted.generation, wanted.name, MachineState.RUNNING)
        self.made[wanted.instance_id] = machine
        return machine

    def clear(self, _: Hypervisor, instance_id: str) -> None:
        self.made.pop(instance_id, None)

    undo = clear

    def inventory(self, _: Hypervisor) -> list[Machine]:
        return list(self.made.values())

    def note_end(self, _: Hypervisor, _instance_id: str) -> bool:
        return True

    def ids(self, _: Hypervisor) -> list[str]:
        return list(self.made)


class Provider(SteadyProvider[Hypervisor]):
    def __init__(self) -> None:
        super().__init__(Hypervisor(), THREADS)
        self.made = Machines()

    async def _prepare(self) -> Machines:
        return self.made

    async def _restore(self) -> None: ...


@pytest.mark.timeout(60)
async def test_creates_that_hang_leave_threads_for_everything_else() -> None:
    provider, ended = Provider(), asyncio.Event()
    await provider.open(lambda _: ended.set())
    bootstrap = Bootstrap("http://192.0.2.1/metadata", "http://192.0.2.1/callbacks", "token")
    wanted = [
        InstanceSpec(str(n), 1, f"test-{n}", "debian", Resources(1, 64, 1), Arch.AMD64, "pool", bootstrap)
        for n in range(3 * THREADS)
    ]
    making = [asyncio.create_task(provider.create(one, lambda _: None)) for one in wanted]
    async with asyncio.timeout(20):
        while provider.made.being_made < THREADS - 2:
            await asyncio.sleep(0.01)
        assert await provider.inventory() == []
        await provider.delete("another")
        provider._ended("a-third")
        await ended.wait()
        assert provider.made.being_made == THREADS - 2
        provider.made.may_make.set()
        await asyncio.gather(*making)
        assert len(await provider.inventory()) == len(wanted)
    await provider.close()
