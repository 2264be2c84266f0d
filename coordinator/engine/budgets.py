"""What the forges let be registered: counted per credentials, and paused when a forge says so."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from coordinator.domain.fleet import Credentials
from coordinator.domain.world import Budget

WINDOW: Final = timedelta(minutes=1)


class Budgets:
    """GitHub REST, rate limits: 900 points a minute and endpoint, 5 for a write, so 180 registrations a minute.

    Counted over a sliding minute, which is within any fixed minute that a forge may count by. It begins with the
    answer: nobody knows how long a call was on its way, and one that comes too early is refused and counts as well.
    """

    def __init__(self) -> None:
        self._limits: Mapping[str, int] = {}
        self._planned: dict[str, str] = {}  # instances whose registration is to come, and with which credentials
        self._asked: Counter[str] = Counter()  # calls that have no answer yet
        self._spent: dict[str, deque[datetime]] = {}  # when calls were answered
        self._paused_until: dict[str, datetime] = {}

    def limit(self, credentials: Iterable[Credentials]) -> None:
        """Take what each may register a minute; those not named have no limit."""
        self._limits = {one.id: one.registrations_per_minute for one in credentials if one.registrations_per_minute}

    def plan(self, credentials_id: str, instance_id: str) -> None:
        """A registration is to come: it counts from now on, whenever it is called for."""
        self._planned[instance_id] = credentials_id

    def give_up(self, instance_id: str) -> None:
        """If it was still to come, it does not."""
        self._planned.pop(instance_id, None)

    def spend(self, credentials_id: str, instance_id: str) -> None:
        """A registration is called for, perhaps not for the first time, and with others than were planned for it, if
        they were changed. `answered` is to follow."""
        self.give_up(instance_id)
        self._asked[credentials_id] += 1

    def answered(self, credentials_id: str, now: datetime) -> None:
        """A call that was made has ended, whichever way."""
        if self._asked[credentials_id]:
            self._asked[credentials_id] -= 1
            if credentials_id in self._limits:
                self._spent.setdefault(credentials_id, deque()).append(now)

    def remember(self, registered: Iterable[tuple[str, datetime]]) -> None:
        """Begin with what a former life of this process, or another one, has registered: credentials and when."""
        self._planned.clear()
        self._asked.clear()
        self._spent.clear()
        for credentials_id, time in sorted(registered, key=lambda one: one[1]):
            self._spent.setdefault(credentials_id, deque()).append(time)

    def full_until(self, credentials_id: str, now: datetime) -> datetime | None:
        """When the next registration may be called for; None: now."""
        limit = self._limits.get(credentials_id)
        spent = self._lately(credentials_id, now)
        too_many = len(spent) + self._asked[credentials_id] - limit if limit is not None else -1
        if too_many < 0:
            return None
        return (spent[too_many] if too_many < len(spent) else now) + WINDOW

    def pause(self, credentials_id: str, until: datetime) -> None:
        """The forge wants no calls before."""
        self._paused_until[credentials_id] = max(until, self._paused_until.get(credentials_id, until))

    def paused_until(self, credentials_id: str, now: datetime) -> datetime | None:
        """When the forge wants to be called again; None: now."""
        until = self._paused_until.get(credentials_id)
        return until if until is not None and now < until else None

    def now(self, now: datetime) -> dict[str, Budget]:
        """What is left of each limited or paused budget."""
        names = set(self._limits) | {name for name, until in self._paused_until.items() if now < until}
        planned = Counter(self._planned.values())
        return {name: self._left(name, now, planned[name]) for name in sorted(names)}

    def _left(self, name: str, now: datetime, planned: int) -> Budget:
        until = self.paused_until(name, now)
        if until is not None:
            return Budget(0, until)
        spent = self._lately(name, now)
        left = self._limits[name] - len(spent) - self._asked[name] - planned
        return Budget(max(left, 0), spent[0] + WINDOW if spent else now + WINDOW)

    def _lately(self, name: str, now: datetime) -> deque[datetime]:
        spent = self._spent.setdefault(name, deque())
        while spent and spent[0] + WINDOW <= now:
            spent.popleft()
        return spent
