"""How long to wait before trying again. Pure: chance is passed in."""

import random

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Doubling delays with jitter, so that many agents do not come back in step."""

    first_seconds: float
    most_seconds: float

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after try `attempt`, counted from 0: between half and the whole of the doubled delay."""
        whole = min(self.most_seconds, self.first_seconds * 2.0 ** min(attempt, 62))
        return whole * rng.uniform(0.5, 1.0)
