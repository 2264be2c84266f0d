"""Whose jobs the next plan must think of: a refusal stands until something changes that it was given for."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from coordinator.domain.planning.hosts import Kind
from coordinator.domain.world import Waits

Place = Kind | str
"""Where room may come to be: hosts for a kind of machine, or the name of a cloud."""


class Agenda:
    """By entity, since a change of one of its jobs, machines or pools may change the plan for all of its jobs."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self._refused: dict[str, tuple[Waits, ...]] = {}
        self._full: defaultdict[Place, set[str]] = defaultdict(set)
        self._starving_at: dict[str, datetime] = {}

    def reopen(self, entity_id: str) -> None:
        self.open.add(entity_id)
        self._refused.pop(entity_id, None)

    def reopen_all(self) -> None:
        for entity_id in list(self._refused):
            self.reopen(entity_id)

    def has_room(self, place: Place) -> None:
        """There may be room again where there was none."""
        for entity_id in self._full.pop(place, ()):
            self.reopen(entity_id)

    @property
    def full(self) -> list[Kind]:
        """The kinds of machines for which there was no host."""
        return [place for place in self._full if isinstance(place, Kind)]

    def close(self, entity_id: str, waits: tuple[Waits, ...], full: Iterable[Place]) -> None:
        """What the entity's jobs wait for is known, and nothing but what this agenda is told of can change it."""
        self.open.discard(entity_id)
        self._refused[entity_id] = waits
        for place in full:
            self._full[place].add(entity_id)

    def starves_at(self, entity_id: str, time: datetime) -> bool:
        """Note when the entity must be thought of at the latest; returns whether that is news."""
        news = self._starving_at.get(entity_id) != time
        self._starving_at[entity_id] = time
        return news

    def refused(self) -> list[Waits]:
        """Of the entities that are not open."""
        return [wait for waits in self._refused.values() for wait in waits]
