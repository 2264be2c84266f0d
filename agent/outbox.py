"""What the coordinator has still to hear, in order, until it says that it has it. Knows no stream."""

import asyncio
from bisect import bisect_right
from datetime import datetime
from operator import attrgetter

import msgspec

from agent.wire import PHASES, timestamp
from protos.hostler.v1 import fleet_pb2 as pb
from providers.contract import Phase

CONSOLE_BUDGET_BYTES = 16 * 1024**2


class Entry(msgspec.Struct, frozen=True):
    position: int  # order among everything in the outbox
    sequence: int  # of an event; 0 for a console log, which the next event's acknowledgement covers
    message: pb.AgentMessage
    about: tuple[str, int, Phase] | None = None
    console_bytes: int = 0


class Outbox:
    """Bounded without counting: one instance has at most one unacknowledged event per phase, and console logs share a
    budget, the oldest giving way. So an absent coordinator costs no more memory than the machines it ordered."""

    def __init__(self, *, console_budget_bytes: int = CONSOLE_BUDGET_BYTES) -> None:
        self.changed = asyncio.Event()
        self._entries: list[Entry] = []
        self._about: set[tuple[str, int, Phase]] = set()
        self._positions = 0
        self._sequences = 0
        self._console_budget = console_budget_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def add_event(
        self,
        instance_id: str,
        generation: int,
        phase: Phase,
        at: datetime,
        *,
        detail: str = "",
        error_code: str = "",
    ) -> None:
        """Queue an event; the same one still unacknowledged is on its way already and is not queued twice."""
        about = (instance_id, generation, phase)
        if about in self._about:
            return
        self._about.add(about)
        self._sequences += 1
        event = pb.InstanceEvent(
            sequence=self._sequences,
            instance_id=instance_id,
            generation=generation,
            phase=PHASES[phase],
            at=timestamp(at),
            detail=detail,
            error_code=error_code,
        )
        self._append(pb.AgentMessage(event=event), sequence=self._sequences, about=about)

    def add_console(self, instance_id: str, data: bytes, *, truncated: bool) -> None:
        log = pb.ConsoleLog(instance_id=instance_id, data=data, truncated=truncated)
        self._append(pb.AgentMessage(console_log=log), console_bytes=len(data))
        self._keep_budget()

    def acknowledge(self, sequence: int) -> None:
        """Forget every event up to `sequence` and the console logs queued before them."""
        kept = next((i for i, entry in enumerate(self._entries) if entry.sequence > sequence), len(self._entries))
        # A console log is covered only by an event after it.
        while kept and self._entries[kept - 1].sequence == 0:
            kept -= 1
        self._about.difference_update(entry.about for entry in self._entries[:kept] if entry.about)
        del self._entries[:kept]

    def after(self, position: int) -> Entry | None:
        """The first entry after `position`; 0 begins anew."""
        at = bisect_right(self._entries, position, key=attrgetter("position"))
        return self._entries[at] if at < len(self._entries) else None

    def _append(
        self,
        message: pb.AgentMessage,
        *,
        sequence: int = 0,
        about: tuple[str, int, Phase] | None = None,
        console_bytes: int = 0,
    ) -> None:
        self._positions += 1
        self._entries.append(Entry(self._positions, sequence, message, about, console_bytes))
        self.changed.set()

    def _keep_budget(self) -> None:
        over = sum(entry.console_bytes for entry in self._entries) - self._console_budget
        while over > 0:
            oldest = next(i for i, entry in enumerate(self._entries) if entry.console_bytes)
            over -= self._entries.pop(oldest).console_bytes
