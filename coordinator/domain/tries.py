"""Machines that came to nothing, counted for the job that they were made for."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from coordinator.domain.job import Job, JobStatus

MOST: Final = 5
REST: Final = timedelta(minutes=30)
"""After MOST machines came to nothing something is wrong with the job's pools, and it is tried again that late."""

WORD_OF_FORGE: Final = timedelta(seconds=5)
"""How long a job waits for the forge's word when a runner that may have run it has just ended."""


def failed(job: Job, now: datetime, fault: str) -> Job:
    """The job after a machine made for it came to nothing."""
    tries = job.tries + 1
    return msgspec.structs.replace(job, tries=tries, fault=fault, retry_at=now + REST if tries >= MOST else None)


def forgiven(job: Job) -> Job:
    """The job after a pool that serves it has proved well, or was declared anew: what came to nothing before is past.

    A job that waits for the forge's word goes on waiting.
    """
    return msgspec.structs.replace(job, tries=0, fault="", retry_at=None if job.tries >= MOST else job.retry_at)


def not_before(job: Job, age: timedelta) -> Job:
    """A new job that is to wait until it is that old."""
    return msgspec.structs.replace(job, retry_at=job.queued_at + age) if job.status is JobStatus.QUEUED else job


def may_have_run(job: Job, now: datetime) -> Job:
    """The job after an idle runner that serves it has ended without a word.

    Runners take jobs before the forge's webhooks say so, and quick ones end before. Making another machine at once
    would make one too many nearly every time.
    """
    return msgspec.structs.replace(job, retry_at=now + WORD_OF_FORGE)
