"""The patrol: looks at forges' and clouds' listings, one after another, slowly, where there is or was something.

It finds what no event told of. No job waits on it, and it registers nothing, so it costs no registration budget.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog

from coordinator.engine.inspection import Inspection
from coordinator.forges.contract import ForgeError
from coordinator.store.lease import LeaseLost
from coordinator.store.rolls import Inhabited
from coordinator.store.store import Store
from providers.contract import ProviderError

log = structlog.get_logger()

_LINGERS: Final = timedelta(hours=1)
"""How long after its last instance an entity or pool is looked at: what was left behind shows by then."""

_LEAST_GAP: Final = timedelta(seconds=2)
"""Between two looks, however many there are: 1,800 calls an hour. GitHub allows a token 5,000 of all kinds."""

_LONGEST_REST: Final = timedelta(hours=1)


class Subject(NamedTuple):
    kind: str  # entity or pool
    id: str


class _Rest(NamedTuple):
    failures: int
    until: datetime


class Patrol:
    """Only the coordinator that plans looks at anything."""

    def __init__(
        self,
        store: Store,
        inspection: Inspection,
        every: timedelta,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._inspection = inspection
        self._every = every
        self._clock = clock
        self._chance = chance
        self._known: set[Subject] = set()
        self._rests: dict[Subject, _Rest] = {}
        self._looks: dict[Subject, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever, in rounds of about `every`. The looks of a round are spread over it."""
        while True:
            try:
                subjects = await self._subjects() if self._store.lease.number is not None else []
            except Exception:
                log.exception("the patrol does not know where to look")
                subjects = []
            gap = max(self._every / max(len(subjects), 1), _LEAST_GAP)
            for subject in subjects:
                await self._pause(gap)
                self._begin(subject)
            if not subjects:
                await self._pause(self._every)

    async def _pause(self, length: timedelta) -> None:
        await asyncio.sleep(length.total_seconds() * (0.5 + self._chance()))

    async def close(self) -> None:
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def _subjects(self) -> list[Subject]:
        """Those to look at now, in an order of chance."""
        now = self._clock()
        inhabited = set(_subjects(await self._store.rolls.inhabited(now - _LINGERS)))
        for subject in self._known - inhabited:
            self._rests.pop(subject, None)
            self._inspection.forget(subject.id)
        self._known = inhabited
        return sorted((s for s in sorted(inhabited) if not self._rests_now(s, now)), key=lambda _: self._chance())

    def _rests_now(self, subject: Subject, now: datetime) -> bool:
        rest = self._rests.get(subject)
        return rest is not None and now < rest.until

    def _begin(self, subject: Subject) -> None:
        """Look in a task of its own: a forge that does not answer holds up nobody else. One look at a time each."""
        if subject not in self._looks:
            self._looks[subject] = asyncio.create_task(self._look(subject), name=f"patrol {subject.kind} {subject.id}")

    async def _look(self, subject: Subject) -> None:
        look = self._inspection.entity if subject.kind == "entity" else self._inspection.pool
        try:
            await look(subject.id)
        except LeaseLost:
            log.info("left to the coordinator that plans now", subject=subject.kind, id=subject.id)
        except (ForgeError, ProviderError) as error:
            self._fail(subject, str(error))
        except Exception:
            log.exception("a look has failed", subject=subject)
            self._fail(subject, "see the exception above")
        else:
            self._rests.pop(subject, None)
        finally:
            del self._looks[subject]

    def _fail(self, subject: Subject, error: str) -> None:
        failures = self._rests[subject].failures + 1 if subject in self._rests else 1
        rest = min(self._every * 2 ** min(failures, 16), _LONGEST_REST)
        self._rests[subject] = _Rest(failures, self._clock() + rest)
        log.warning("nothing is known of what is there", subject=subject.kind, id=subject.id, error=error)


def _subjects(inhabited: Inhabited) -> Iterable[Subject]:
    yield from (Subject("entity", id_) for id_ in inhabited.entities)
    yield from (Subject("pool", id_) for id_ in inhabited.pools)
