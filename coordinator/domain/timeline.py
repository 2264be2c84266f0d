"""Timelines: what happened to a job and its instance, and when."""

from datetime import datetime

import msgspec

from coordinator.domain.changes import Step


class Entry(msgspec.Struct, frozen=True):
    step: Step
    at: datetime
    job_id: str = ""
    instance_id: str = ""
    detail: str = ""
