"""What benchmarks say: measured values beside their goals."""

import statistics
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec


class Result(msgspec.Struct, frozen=True):
    """One measured value. Without a goal there is nothing to reach: `ok` is None."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    ok: bool | None = None
    sense: str = ""  # how the goal is meant, for people
    exact: bool = False  # no machine is too slow for it: a miss is a failure, whatever was asked for


class Line(msgspec.Struct, frozen=True):
    """A result as programs read it."""

    name: str
    value: float
    unit: str
    goal: float | None
    ok: bool | None


class Benchmark(NamedTuple):
    name: str
    run: Callable[[Path], Coroutine[Any, Any, list[Result]]]
    """Gets an empty folder on a real disk. Raises when it could not measure; a missed goal is a result."""
    longest_seconds: float = 180
    parts: tuple[str, ...] = ()
    """What `tools/setup` installs for it, beside what all need."""


class BenchmarkFailed(Exception):
    """Nothing could be measured; the message says why."""


def shown(name: str, value: float, unit: str) -> Result:
    return Result(name, _rounded(value), unit)


def at_least(name: str, value: float, unit: str, goal: float) -> Result:
    return Result(name, _rounded(value), unit, goal, value >= goal, "≥")


def at_most(name: str, value: float, unit: str, goal: float) -> Result:
    return Result(name, _rounded(value), unit, goal, value <= goal, "≤")


def none_of(name: str, value: float, unit: str) -> Result:
    """What must not be, on any machine."""
    return Result(name, value, unit, 0, value == 0, "=", exact=True)


def percentile(values: Sequence[float], percent: int) -> float:
    """Interpolated between the two nearest values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def _rounded(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")
