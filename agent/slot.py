"""What the keeper knows of one instance: what exists of it and what is owed."""

import asyncio
from datetime import datetime

from agent.decisions import Held, Holding
from providers.contract import InstanceSpec, Phase


class Slot:
    """Changed by the keeper alone. What is owed is done in this order: removal, then making."""

    def __init__(self, instance_id: str, generation: int, name: str) -> None:
        self.instance_id = instance_id
        self.generation = generation
        self.name = name
        self.exists = False
        self.interrupted = False
        self.phases: dict[Phase, datetime] = {}
        self.to_make: InstanceSpec | None = None
        self.removal: int | None = None  # generation of the delete that is owed
        self.making = False  # past the queue for creates
        self.stopped_early = False
        self.console_taken = False
        self.changed = asyncio.Event()
        self.worker: asyncio.Task[None] | None = None

    @property
    def held(self) -> Held:
        if self.removal is not None:
            return Held(Holding.MAKING if self.to_make else Holding.REMOVING, self.generation)
        if self.to_make is not None:
            return Held(Holding.MAKING, self.generation)
        return Held(Holding.INTERRUPTED if self.interrupted else Holding.MADE, self.generation)
