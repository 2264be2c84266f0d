"""How long a forge wants to be left alone, from the headers of a refusal."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

UNTOLD: Final = timedelta(minutes=1)
"""GitHub REST, rate limits: without headers wait at least a minute."""

_LONGEST: Final = timedelta(hours=1)
"""GitHub's longest window. A longer wait is a clock or a proxy that is wrong."""


def left(headers: Mapping[str, str]) -> float:
    """What remains of the primary rate limit, as a share of the whole; the whole where nothing is told of one."""
    limit, remaining = _number(headers.get("x-ratelimit-limit", "")), _number(headers.get("x-ratelimit-remaining", ""))
    return min(max(remaining / limit, 0.0), 1.0) if limit and remaining is not None else 1.0


def told(headers: Mapping[str, str]) -> timedelta | None:
    """From `retry-after`, or from `x-ratelimit-reset` where nothing remains; None when neither tells.

    Times are counted from the answer's own date, so that clocks need not agree.
    """
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    wait = _retry_after(headers.get("retry-after", ""), now)
    if wait is None and headers.get("x-ratelimit-remaining", "").strip() == "0":
        reset = _number(headers.get("x-ratelimit-reset", ""))
        wait = timedelta(seconds=reset - now.timestamp()) if reset is not None else None
    return None if wait is None else min(max(wait, timedelta(seconds=1)), _LONGEST)


def _retry_after(text: str, now: datetime) -> timedelta | None:
    """RFC 9110: seconds or a date."""
    seconds = _number(text)
    if seconds is not None:
        return timedelta(seconds=seconds)
    date = _date(text)
    return date - now if date else None


def _number(text: str) -> int | None:
    stripped = text.strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() and len(stripped) < 12 else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
