"""GitHub's primary rate limit: so many calls per token, resource and hour, told in headers."""

from datetime import datetime
from typing import Final

import msgspec

from tests.forge_simulator.errors import ApiError
from tests.forge_simulator.records import Clock

WINDOW_SECONDS: Final = 3600
CORE: Final = "core"
RUNNER_REGISTRATION: Final = "actions_runner_registration"


class Usage(msgspec.Struct):
    limit: int
    reset: int
    used: int = 0

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


class RateLimits:
    """Counts calls. The limits may be set lower to see what a client does at the end of its budget."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.limits = {CORE: 5_000, RUNNER_REGISTRATION: 10_000}
        self._usage: dict[tuple[int, str], Usage] = {}

    def usage(self, user_id: int, resource: str) -> Usage:
        now = _epoch(self._clock())
        usage = self._usage.get((user_id, resource))
        if usage is None or usage.reset <= now or usage.limit != self.limits[resource]:
            usage = Usage(limit=self.limits[resource], reset=now + WINDOW_SECONDS)
            self._usage[user_id, resource] = usage
        return usage

    def count(self, user_id: int, resource: str) -> dict[str, str]:
        """Count one call and give the headers that tell of it; 403 when the budget is used up."""
        usage = self.usage(user_id, resource)
        if usage.remaining == 0:
            raise ApiError(
                403,
                f"API rate limit exceeded for user ID {user_id}.",
                page="overview/rate-limits-for-the-rest-api",
                headers=headers(usage, resource),
            )
        usage.used += 1
        return headers(usage, resource)

    def uncount(self, user_id: int, resource: str) -> dict[str, str]:
        """Take a call back that is answered with 304: it costs nothing."""
        usage = self.usage(user_id, resource)
        usage.used = max(0, usage.used - 1)
        return headers(usage, resource)


def headers(usage: Usage, resource: str) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(usage.limit),
        "X-RateLimit-Remaining": str(usage.remaining),
        "X-RateLimit-Used": str(usage.used),
        "X-RateLimit-Reset": str(usage.reset),
        "X-RateLimit-Resource": resource,
    }


def _epoch(moment: datetime) -> int:
    return int(moment.timestamp())
