"""Creates as their plans were committed, one after another: read past the coordinator, from its database."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Final, NamedTuple

from tests.bench.results import BenchmarkFailed
from tests.bench.site import Site

_PATIENCE_SECONDS: Final = 10.0
_QUERY: Final = (
    "SELECT p.at, e.owner || '/' || e.name, j.queued_at, j.id, c.at, p.instance_id FROM timeline p "
    "JOIN jobs j ON j.id = p.job_id JOIN entities e ON e.id = j.entity_id "
    "JOIN timeline c ON c.job_id = j.id AND c.step = 'committed' WHERE p.step = 'planned' ORDER BY p.id"
)


class Create(NamedTuple):
    planned_at: int  # microseconds since 1970, as all times
    repository: str
    queued_at: int
    job_id: str
    committed_at: int
    instance_id: str

    @property
    def turn(self) -> tuple[int, str]:
        """Among the jobs of its repository."""
        return self.queued_at, self.job_id


async def creates(one: Site, jobs: int) -> list[Create]:
    """When a job was committed is noted a moment later: without such a note a create could not be judged.

    Raises:
        BenchmarkFailed: there is not one for each job.
    """
    found: list[Create] = []
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(found) != jobs:
                await asyncio.sleep(0.1)
                found = await asyncio.to_thread(_read, one)
    except TimeoutError:
        raise BenchmarkFailed(f"the database tells of {len(found)} creates for {jobs} jobs") from None
    return found


def _read(one: Site) -> list[Create]:
    with closing(sqlite3.connect(f"file:{one.database}?mode=ro", uri=True)) as connection:
        return [Create(*row) for row in connection.execute(_QUERY)]
