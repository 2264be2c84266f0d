"""How long a pool or a host rests after machines on it came to nothing."""

from datetime import timedelta
from typing import Final

FIRST: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(minutes=5)


def cooldown(failures: int, chance: float) -> timedelta:
    """Rest after that many failures in a row: doubles each time, with jitter.

    Args:
        failures: at least 1.
        chance: uniform in [0, 1); spreads the rest over half to the whole of its length.
    """
    doubled = FIRST * (1 << min(failures - 1, 16))
    return min(doubled, LONGEST) * (0.5 + chance / 2)
