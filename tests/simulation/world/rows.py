"""A look into the coordinator's database, past the coordinator."""

import random
import sqlite3
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMING = ("pending_create", "creating", "running")


class InstanceRow(msgspec.Struct, frozen=True):
    id: str
    name: str
    pool: str
    entity: str
    provider: str
    host: str
    flavor: str
    status: str
    runner_status: str
    job_id: str
    for_job: str
    forge_runner_id: int

    @property
    def is_coming(self) -> bool:
        return self.status in _COMING and not self.job_id


class JobRow(msgspec.Struct, frozen=True):
    id: str
    forge_job_id: int
    status: str


_INSTANCES = """
SELECT i.id, i.name, p.name, e.owner || '/' || e.name, i.provider, i.host, p.flavor, i.status, i.runner_status,
       i.job_id, i.for_job, i.forge_runner_id
FROM instances i JOIN pools p ON p.id = i.pool_id JOIN entities e ON e.id = i.entity_id
WHERE i.status != 'deleted' ORDER BY i.created_at, i.id
"""
_QUEUED = """
SELECT e.owner || '/' || e.name, j.queued_at FROM jobs j JOIN entities e ON e.id = j.entity_id
WHERE j.status = 'queued' ORDER BY j.queued_at, j.id
"""


class Rows:
    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)

    def alive(self) -> list[InstanceRow]:
        return [InstanceRow(*row) for row in self._connection.execute(_INSTANCES)]

    def jobs(self) -> list[JobRow]:
        return [JobRow(*row) for row in self._connection.execute("SELECT id, forge_job_id, status FROM jobs")]

    def queued(self) -> dict[str, list[datetime]]:
        """Since when the coordinator knows of queued jobs, by repository, the oldest first."""
        found: defaultdict[str, list[datetime]] = defaultdict(list)
        for entity, queued_at in self._connection.execute(_QUEUED):
            found[entity].append(_time(queued_at))
        return dict(found)

    def queued_at(self, job_id: str) -> datetime | None:
        row = self._connection.execute("SELECT queued_at FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return _time(row[0]) if row else None

    def draining(self) -> list[str]:
        """Hosts that are to be emptied and are not known to be empty."""
        return [name for (name,) in self._connection.execute("SELECT name FROM hosts WHERE admission = 'draining'")]

    def forget_one(self, chance: random.Random) -> InstanceRow | None:
        """Delete the row of a machine of a host, as when the database was restored from a backup; returns it."""
        there = [row for row in self.alive() if row.host and row.status == "running"]
        if not there:
            return None
        row = chance.choice(there)
        with self._connection:
            self._connection.execute("DELETE FROM instances WHERE id = ?", (row.id,))
        return row

    def close(self) -> None:
        self._connection.close()


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
