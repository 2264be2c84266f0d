"""A backlog over repositories of unequal weight and priority, all known before a host comes: the exact order."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.creates import Create, creates
from tests.bench.farm import Farm, Made
from tests.bench.fleet import Fleet
from tests.bench.forges import limiting_forge
from tests.bench.generator import send_all
from tests.bench.results import BenchmarkFailed, Result, none_of, shown
from tests.bench.site import site
from tests.bench.webhooks import FIRST_JOB, queued_over

_JOBS: Final = 400
_HOSTS: Final = 30  # times 16 machines that one may make at once: room for all
_WEIGHTS: Final = (1.0, 2.0, 1.0, 3.0)
_PRIORITIES: Final = (0, 0, 10, 0)
_CONNECTIONS: Final = 16
_PATIENCE_SECONDS: Final = 60.0


async def run(folder: Path) -> list[Result]:
    fleet = Fleet(repositories=len(_WEIGHTS), weights=_WEIGHTS, priorities=_PRIORITIES)
    async with limiting_forge(folder, fleet) as forge:
        fleet = msgspec.structs.replace(fleet, forge_url=forge.url)
        async with site(folder / "site", fleet) as one:
            await send_all(folder, one.http_port, queued_over(forge.url, fleet.names(), FIRST_JOB, _JOBS), _CONNECTIONS)
            async with Farm(one.grpc, _HOSTS) as farm:
                if not await farm.until_made(_JOBS, _PATIENCE_SECONDS):
                    raise BenchmarkFailed(f"only {len(farm.made)} of {_JOBS} jobs got a machine")
                planned = await creates(one, _JOBS)
                one.check()
                shifts = shifted(planned, farm.made)
    name = f"storm, {_JOBS} jobs known before, weights and priorities"
    return [
        none_of(f"{name}, out of the policy's order", out_of_order(planned, fleet), "creates"),
        shown(f"{name}, places that an arrival is from its plan, most", max(shifts), "places"),
    ]


def out_of_order(planned: Sequence[Create], fleet: Fleet) -> int:
    """Creates that were not due: another repository with jobs left has a higher class, or of the same class less for
    its weight, or an older job of the same repository came later. A machine is whole, so one of difference is none.
    """
    names = fleet.names()
    weight = {name: fleet.weight(position) for position, name in enumerate(names)}
    priority = {name: fleet.priority(position) for position, name in enumerate(names)}
    left, have = Counter(one.repository for one in planned), Counter(dict.fromkeys(names, 0))
    last: dict[str, tuple[int, str]] = {}
    wrong = 0
    for create in planned:
        mine = create.repository
        others = [name for name in names if name != mine and left[name]]
        wrong += (
            any(priority[name] > priority[mine] for name in others)
            or any(
                have[mine] / weight[mine] > (have[name] + 1) / weight[name]
                for name in others
                if priority[name] == priority[mine]
            )
            or create.turn < last.get(mine, create.turn)
        )
        last[mine] = create.turn
        left[mine] -= 1
        have[mine] += 1
    return wrong


def shifted(planned: Sequence[Create], made: Sequence[Made]) -> list[int]:
    """How many places each machine came to its agent before or after its turn in the plans.

    Commands go to many hosts beside each other: only one host's own come in an order.
    """
    turn = {create.instance_id: number for number, create in enumerate(planned)}
    arrived = sorted(made, key=lambda machine: machine.at)
    return [abs(turn[machine.instance_id] - number) for number, machine in enumerate(arrived)]
