"""What a certificate says: names are the coordinator's choice, whatever a request asks for. Pure.

An agent's certificate carries one name, a URI in SPIFFE's form: `spiffe://CONTROLLER/host/NAME/ENROLMENT`. It has no
DNS names, so it serves nobody as a server; the coordinator's has no such URI, so it serves nobody as a host.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from hostler.errors import HostlerError

BACKDATED: Final = timedelta(minutes=5)
"""Clocks differ; a certificate is valid a little before it is made."""

AUTHORITY_LIFE: Final = timedelta(days=20 * 365)

_HOST: Final = re.compile(r"spiffe://(?P<controller>[0-9a-f-]{36})/host/(?P<host>[^/]+)/(?P<enrolment>[0-9a-f-]{36})")


class NotAHost(HostlerError):
    """A certificate of ours that is not that of a host."""

    code = "not_a_host"


class HostIdentity(msgspec.Struct, frozen=True):
    """What makes a host's certificates that host's: its name, and which of its enrolments they come from."""

    host: str
    enrolment: str

    def uri(self, controller_id: str) -> str:
        return f"spiffe://{controller_id}/host/{self.host}/{self.enrolment}"


def read(names: Iterable[str], controller_id: str) -> HostIdentity:
    """The host that a verified certificate with these names is for.

    Raises:
        NotAHost: see there, or it has more names than ours have.
    """
    given = list(names)
    found = _HOST.fullmatch(given[0]) if len(given) == 1 else None
    if found is None or found["controller"] != controller_id:
        raise NotAHost("this certificate is not that of a host of this installation")
    return HostIdentity(found["host"], found["enrolment"])


def two_thirds(life: timedelta) -> timedelta:
    """After how much of a certificate's life it is replaced."""
    return life * 2 / 3


def address(names: Sequence[str], port: int) -> str:
    """What others are told to call: the first name."""
    name = names[0]
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
