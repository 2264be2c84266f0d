"""Images of the catalogue, and whether a host has one or may fetch it. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum, auto

import msgspec

from coordinator.domain.cooldown import cooldown
from hostler.images import Compression, ImageFormat, ImageState


class Image(msgspec.Struct, frozen=True):
    """What a name means for one architecture. Another URL of the same content is the same image to a host."""

    name: str
    arch: str
    url: str
    sha256: str  # of the file at the URL
    format: ImageFormat
    compression: Compression = Compression.NONE


Catalogue = Mapping[tuple[str, str], Image]
"""By name and architecture."""


class OnHost(msgspec.Struct, frozen=True):
    """How it stands with one content on one host."""

    host: str
    sha256: str
    state: ImageState
    changed_at: datetime
    bytes: int = 0
    error_code: str = ""
    detail: str = ""
    failures: int = 0  # in a row
    cool_until: datetime | None = None


class Held(msgspec.Struct, frozen=True):
    """What a host has of the catalogue, by digest."""

    contents: frozenset[str] = frozenset()
    rests: Mapping[str, datetime] = {}  # of those that could not be fetched: until when they are not tried


def held(on_host: Iterable[OnHost]) -> Held:
    rows = list(on_host)
    return Held(
        contents=frozenset(one.sha256 for one in rows if one.state is ImageState.HAVE),
        rests={one.sha256: one.cool_until for one in rows if one.cool_until is not None},
    )


class Reach(Enum):
    """Whether a machine of an image can be made on a host."""

    HERE = auto()
    FETCH = auto()  # it is fetched first
    RESTS = auto()  # it could not be fetched, and is tried again later
    NO_ENTRY = auto()  # neither the host nor the catalogue has it
    NO_FETCHING = auto()  # the catalogue has it, but the host's driver does not fetch


def reach(
    own: frozenset[str] | None, fetches: bool, entry: Image | None, name: str, held: Held, now: datetime, /
) -> Reach:
    """
    Args:
        own: images of the driver by the host's own configuration.
        fetches: whether the driver takes images of the catalogue.
        entry: what the catalogue has of that name for the machine's architecture.
        held: what the host has of the catalogue.

    What the catalogue has of a name goes before what hosts have of it, where they can fetch at all.
    """
    if entry is None or not fetches:
        if name in (own or ()):
            return Reach.HERE
        return Reach.NO_ENTRY if entry is None else Reach.NO_FETCHING
    if entry.sha256 in held.contents:
        return Reach.HERE
    rests = held.rests.get(entry.sha256)
    return Reach.RESTS if rests is not None and now < rests else Reach.FETCH


class Report(msgspec.Struct, frozen=True):
    """What a host says of one content."""

    host: str
    sha256: str
    state: ImageState
    bytes: int = 0
    error_code: str = ""
    detail: str = ""


def on_report(old: OnHost | None, report: Report, now: datetime, chance: float) -> OnHost | None:
    """Fold a report in; None: there is nothing to remember of that content."""
    failures, cool_until = (old.failures, old.cool_until) if old is not None else (0, None)
    match report.state:
        case ImageState.GONE:
            return None
        case ImageState.HAVE:
            failures, cool_until = 0, None
        case ImageState.FAILED:
            # What failed together, as all that waited for one fetch, counts as one failure.
            failures = failures if cool_until is not None and now < cool_until else failures + 1
            cool_until = now + cooldown(failures, chance)
    return OnHost(
        host=report.host,
        sha256=report.sha256,
        state=report.state,
        changed_at=now,
        bytes=report.bytes,
        error_code=report.error_code,
        detail=report.detail,
        failures=failures,
        cool_until=cool_until,
    )


def on_presented(known: Mapping[str, OnHost], reports: Iterable[Report], now: datetime, chance: float) -> list[OnHost]:
    """A host's rows after its agent has named all that it knows of; what it repeats changes nothing.

    A fetch that is still wanted stays, and so does a rest that is not over: a new agent's process knows nothing of it.
    """
    said = {report.sha256: report for report in reports}
    became = []
    for sha256, old in known.items():
        report = said.pop(sha256, None)
        if report is None:
            resting = old.cool_until is not None and now < old.cool_until
            if old.state is ImageState.WANTED or resting:
                became.append(old)
        elif (report.state, report.error_code) == (old.state, old.error_code):
            became.append(old)
        else:
            said[sha256] = report
    for report in said.values():
        row = on_report(known.get(report.sha256), report, now, chance)
        if row is not None:
            became.append(row)
    return became


def may_be_wanted(old: OnHost | None) -> bool:
    return old is None or old.state not in (ImageState.HAVE, ImageState.FETCHING)


def wanted(old: OnHost | None, host: str, sha256: str, now: datetime) -> OnHost:
    """A fetch that a person asked for; what failed before is tried again, whether it rests or not."""
    failures, cool_until = (old.failures, old.cool_until) if old is not None else (0, None)
    return OnHost(host, sha256, ImageState.WANTED, now, failures=failures, cool_until=cool_until)
