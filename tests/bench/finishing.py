"""Jobs that run to their ends while others come: what the forge tells of them, again where it was not taken."""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tests.bench.farm import Farm, Made
from tests.bench.latency import Hook
from tests.bench.webhooks import FIRST_JOB, Deliveries

_EVERY: Final = 8
"""Of so many machines one gets a job that ends."""


class _News(NamedTuple):
    request: bytes
    ends: str  # the repository of a job that ends with it


class Finishing:
    """The jobs of a repository are alike: its next machine that is to have one runs the oldest that has none."""

    def __init__(self, farm: Farm, forge_url: str, repositories: Sequence[str]) -> None:
        self.runners: set[str] = set()  # that had a job: at a real forge they end with it
        self.ended: Counter[str] = Counter()  # by repository, as the coordinator has said that it knows
        self._farm = farm
        self._deliveries = {name: Deliveries(forge_url, name) for name in repositories}
        self._jobs = {
            name: iter(range(FIRST_JOB + n, 2 * FIRST_JOB, len(repositories))) for n, name in enumerate(repositories)
        }
        self._seen = 0
        self._unsaid: deque[_News] = deque()

    async def run(self, port: int, repository_of: Mapping[str, str]) -> None:
        """Until the coordinator goes, or it is cancelled. `repository_of`: a pool's."""
        hook = await Hook.open(port)
        try:
            while True:
                while self._seen < len(self._farm.made):
                    self._consider(self._farm.made[self._seen], repository_of)
                await self._say(hook)
                await asyncio.sleep(0.01)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            hook.close()

    def _consider(self, made: Made, repository_of: Mapping[str, str]) -> None:
        self._seen += 1
        if self._seen % _EVERY:
            return
        name = repository_of[made.pool_id]
        self.runners.add(made.name)
        deliveries, job = self._deliveries[name], next(self._jobs[name])
        self._unsaid.append(_News(deliveries.in_progress(job, made.name), ""))
        self._unsaid.append(_News(deliveries.completed(job, made.name), name))

    async def _say(self, hook: Hook) -> None:
        while self._unsaid:
            hook.send(self._unsaid[0].request)
            await hook.answered()
            if name := self._unsaid.popleft().ends:
                self.ended[name] += 1
