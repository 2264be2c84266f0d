"""The forge simulator as a program of the benchmarks: several repositories and tokens, slow answers, a limit a minute.

`python -m tests.bench.limiting_forge FILE`: FILE is a JSON `Forge`. What it counted is always in `Forge.counted_file`.
"""

import asyncio
import math
import signal
import sys
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Final

import msgspec

from hostler import logs
from tests.forge_simulator.errors import ApiError
from tests.forge_simulator.faults import RestFault
from tests.forge_simulator.ratelimit import RUNNER_REGISTRATION, RateLimits
from tests.forge_simulator.records import utc_now
from tests.forge_simulator.simulator import ForgeSimulator

_WINDOW_SECONDS: Final = 60.0
_IN_FLIGHT_SECONDS: Final = 1.0
"""A call that comes so soon after a refusal was made before its answer had arrived."""


class Forge(msgspec.Struct, frozen=True):
    port: int
    tokens: dict[str, list[str]]  # token to the repositories that it is for
    counted_file: str
    registration_seconds: float = 0.0  # how long a registration takes
    per_minute: int = 0  # registrations of one token; 0: no limit


class Counted(msgspec.Struct):
    registrations: int = 0
    refused: int = 0
    ignored: int = 0  # calls of a token while it had been told to wait
    first_at: float = 0.0  # time.monotonic() of the first registration
    last_at: float = 0.0


class _Limits(RateLimits):
    """GitHub's limit a minute: a call that is too much gets 403 and Retry-After (GitHub REST, rate limits)."""

    def __init__(self, settings: Forge) -> None:
        super().__init__(utc_now)
        self.limits[RUNNER_REGISTRATION] = 1_000_000
        self._settings = settings
        self._lately: defaultdict[int, deque[float]] = defaultdict(deque)
        self._refused_at: dict[int, float] = {}
        self._wait_until: dict[int, float] = {}
        self.counted = Counted()

    def count(self, user_id: int, resource: str) -> dict[str, str]:
        if resource == RUNNER_REGISTRATION:
            try:
                self._registration(user_id, time.monotonic())
            finally:
                self._save()
        return super().count(user_id, resource)

    def _registration(self, user_id: int, now: float) -> None:
        lately = self._lately[user_id]
        while lately and lately[0] <= now - _WINDOW_SECONDS:
            lately.popleft()
        if self._refused_at.get(user_id, now) + _IN_FLIGHT_SECONDS < now < self._wait_until.get(user_id, now):
            self.counted.ignored += 1
        if self._settings.per_minute and len(lately) >= self._settings.per_minute:
            wait = math.ceil(lately[0] + _WINDOW_SECONDS - now)
            self._refused_at[user_id], self._wait_until[user_id] = now, now + wait
            self.counted.refused += 1
            raise ApiError(
                403, "You have exceeded a secondary rate limit.", page="rest", headers={"Retry-After": str(wait)}
            )
        lately.append(now)
        self.counted.registrations += 1
        self.counted.first_at = self.counted.first_at or now
        self.counted.last_at = now

    def _save(self) -> None:
        file = Path(self._settings.counted_file)
        new = file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(self.counted))
        new.replace(file)


async def run(settings: Forge) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    forge = ForgeSimulator(port=settings.port)
    forge.rate_limits = _Limits(settings)
    forge.set_faults(RestFault(operation="generate-jitconfig", delay_seconds=settings.registration_seconds))
    for token, repositories in settings.tokens.items():
        for name in repositories:
            forge.add_repository(name)
        forge.add_token(*repositories, value=token)
    async with forge:
        await stopped.wait()


if __name__ == "__main__":
    logs.configure("warning")
    asyncio.run(run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Forge)))
