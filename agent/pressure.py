"""Whether the host is short of disk or memory, and so takes no more machines. Pure."""

from typing import ClassVar

import msgspec

from agent.host import Usage
from hostler.errors import HostlerError


class Low(msgspec.Struct, frozen=True, kw_only=True):
    """Less than this available is too little; 0: never."""

    memory_mib: int
    disk_gib: int


class Pressure(msgspec.Struct, frozen=True):
    """`code` is stable, `detail` for people."""

    code: str
    detail: str


class HostUnderPressure(HostlerError):
    """The host makes no machine now. Nothing was begun."""

    code: ClassVar[str] = "host_under_pressure"


def pressure(usage: Usage, low: Low, before: Pressure | None) -> Pressure | None:
    """What the host is short of; None: of nothing.

    It is over only when there is a quarter more than too little, so that a host at the limit does not waver.
    """
    checks = (
        ("disk_low", "disk", "GiB", usage.disk_available_gib, low.disk_gib),
        ("memory_low", "memory", "MiB", usage.memory_available_mib, low.memory_mib),
    )
    for code, what, unit, available, limit in checks:
        enough = limit + max(1, limit // 4) if before is not None and before.code == code else limit
        if limit and available < enough:
            return Pressure(code, f"{available} {unit} of {what} available, {enough} wanted")
    return None


class Gauge:
    """The newest answer, for whoever is about to make something."""

    def __init__(self, low: Low) -> None:
        self._low = low
        self.pressure: Pressure | None = None

    def read(self, usage: Usage) -> bool:
        """Whether something else is short now."""
        before, self.pressure = self.pressure, pressure(usage, self._low, self.pressure)
        return (before and before.code) != (self.pressure and self.pressure.code)

    def refusal(self) -> HostUnderPressure | None:
        """Why nothing may be begun; None when it may."""
        return None if self.pressure is None else HostUnderPressure(f"this host is short: {self.pressure.detail}")
