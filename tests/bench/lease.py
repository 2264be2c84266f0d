"""Two coordinators on one PostgreSQL: the one that plans is killed, and how long it takes until the other plans."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from coordinator.store.keys import KEY_FILE
from tests.bench.fleet import Fleet
from tests.bench.forges import limiting_forge
from tests.bench.latency import Hook
from tests.bench.processes import Processes
from tests.bench.results import Result, at_most, none_of
from tests.bench.site import Site
from tests.bench.webhooks import FIRST_JOB, Deliveries
from tests.bench.wire_agent import WireAgent
from tests.real.postgres import Postgres, postgres

_ROUNDS: Final = 3
_QUIET_SECONDS: Final = 1.0
"""So long the successor may send what it should not."""


class _Taken(NamedTuple):
    seconds: float
    doubled: int


async def run(folder: Path) -> list[Result]:
    """Killed at different times after a renewal of the lease, because rounds take as long as they take."""
    async with _postgres() as server, limiting_forge(folder, Fleet()) as forge:
        fleet = Fleet(forge_url=forge.url)
        taken = []
        for number in range(_ROUNDS):
            (folder / str(number)).mkdir()
            url = await asyncio.to_thread(server.empty)
            taken.append(await _takes_over(folder / str(number), url, fleet))
    worst = max(one.seconds for one in taken)
    return [
        at_most(f"lease, holder killed to the other's create, worst of {_ROUNDS}", worst, "s", 10),
        none_of("lease, creates beside one for each job", sum(one.doubled for one in taken), "creates"),
    ]


async def _takes_over(folder: Path, url: str, fleet: Fleet) -> _Taken:
    """Seconds from the kill to the create, at an agent of the other, of a job that was queued right after it."""
    places = [folder / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    async with Processes(places[0]) as of_first, Processes(places[1]) as of_second:
        first, second = Site(places[0], of_first, url), Site(places[1], of_second, url)
        await first.start()
        await first.declare(fleet)
        second.data.mkdir(mode=0o700)
        shutil.copy(first.data / KEY_FILE, second.data / KEY_FILE)
        await second.start()
        async with WireAgent(second.grpc) as agent:
            hook = await Hook.open(second.http_port)
            deliveries = Deliveries(fleet.forge_url, fleet.names()[0])
            hook.send(deliveries.queued(FIRST_JOB))
            await hook.answered()
            created = {(await agent.next_create()).command.instance_id}  # the first plans for the second's agent
            began = time.monotonic()
            await first.kill()
            hook.send(deliveries.queued(FIRST_JOB + 1))
            await hook.answered()
            created.add((await agent.next_create()).command.instance_id)
            seconds = time.monotonic() - began
            hook.close()
            await asyncio.sleep(_QUIET_SECONDS)
            doubled = agent.creates_waiting + 2 - len(created)
        second.check()
        return _Taken(seconds, doubled)


@asynccontextmanager
async def _postgres() -> AsyncIterator[Postgres]:
    """Its set-up and its end block, so they are done in a thread."""
    context = postgres()
    server = await asyncio.to_thread(context.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
