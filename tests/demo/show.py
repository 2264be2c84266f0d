"""How the demo tells what happens: lines for people, or JSON lines for programs."""

import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from protos.hostler.v1 import admin_pb2

SHOWN: Final = {
    "webhook",
    "committed",
    "planned",
    "dispatched",
    "disk",
    "started",
    "booted",
    "runner online",
    "job running",
    "completed",
    "destroyed",
}
"""The steps that every job must go through on a host."""
SHOWN_IN_CLOUD: Final = SHOWN - {"disk"}
"""A cloud's provider says only that the machine is made."""


def webhook_at(job: admin_pb2.Job) -> datetime:
    """Not the timeline's first entry: a machine that was planned for another job, and took this one, may be older."""
    return next(entry.at.ToDatetime() for entry in job.timeline if entry.step == "webhook")


class Show:
    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._first: datetime | None = None
        self._names: dict[str, str] = {}  # of jobs and instances, short

    def note(self, text: str) -> None:
        """Progress of the set-up; never among the JSON lines."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def name(self, subject: str, name: str) -> None:
        self._names[subject] = name

    def entry(self, entry: admin_pb2.TimelineEntry) -> None:
        """One timeline entry, as it comes."""
        at = entry.at.ToDatetime(tzinfo=UTC)
        self._first = self._first or at
        milliseconds = (at - self._first).total_seconds() * 1000
        if self._json:
            self._line(
                {
                    "event": "timeline",
                    "job": entry.job_id,
                    "instance": entry.instance_id,
                    "step": entry.step,
                    "milliseconds": round(milliseconds, 1),
                    "at": at.isoformat(),
                    "detail": entry.detail,
                }
            )
            return
        job, machine = self._short(entry.job_id), self._short(entry.instance_id)
        sys.stdout.write(f"{milliseconds:10.1f} ms  {entry.step:<17} {job:<6}  {machine:<20}  {entry.detail}".rstrip())
        sys.stdout.write("\n")
        sys.stdout.flush()

    def job(self, number: int, job: admin_pb2.Job) -> None:
        """A whole job, when it is over: its own steps with their milliseconds since its webhook."""
        begun = webhook_at(job)
        steps = {entry.step: round((entry.at.ToDatetime() - begun).total_seconds() * 1000, 1) for entry in job.timeline}
        if self._json:
            self._line(
                {
                    "event": "job",
                    "number": number,
                    "job": job.id,
                    "forge_job_id": job.forge_job_id,
                    "instance": job.instance_id,
                    "runner": job.runner_name,
                    "conclusion": job.conclusion,
                    "steps": steps,
                }
            )
            return
        way = " · ".join(f"{step} {milliseconds:.0f}" for step, milliseconds in steps.items() if step in SHOWN)
        sys.stdout.write(f"job {number} on {job.runner_name}: {job.conclusion} (ms since its webhook: {way})\n")

    def summary(self, text: str, **values: Any) -> None:
        if self._json:
            self._line({"event": "summary", "text": text} | values)
        else:
            sys.stdout.write(f"\n{text}\n")

    def hints(self, text: str) -> None:
        """What to do next, for people."""
        if not self._json:
            sys.stdout.write(f"\n{text}")

    def _short(self, subject: str) -> str:
        return self._names.get(subject, subject[:8])

    def _line(self, values: dict[str, Any]) -> None:
        sys.stdout.write(msgspec.json.encode(values).decode() + "\n")
        sys.stdout.flush()
