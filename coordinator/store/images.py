"""The catalogue of images as everything else reads it, and how it stands with them on the hosts."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from coordinator.domain import images as domain
from coordinator.domain.images import Held, Image, OnHost, Report, held
from coordinator.store import changed
from coordinator.store.audit import Audit
from coordinator.store.batch import Batcher
from coordinator.store.database import Database
from coordinator.store.retrying import retried
from coordinator.store.rows import Row
from coordinator.store.schema import host_images, images, pools
from hostler.errors import HostlerError
from hostler.images import Compression, ImageFormat, ImageState


class ImageInUse(HostlerError):
    """A pool makes machines of it."""

    code = "image_in_use"


class ImageUnknown(HostlerError):
    """The catalogue has none of that name."""

    code = "image_unknown"
    hint = "see `hostler image list`"


class _Presented(NamedTuple):
    """All that a host has to say of images."""

    host: str
    reports: tuple[Report, ...]


class Images:
    def __init__(
        self, database: Database, audit: Audit, clock: Callable[[], datetime], chance: Callable[[], float]
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._chance = chance
        self._catalogue: dict[tuple[str, str], Image] | None = None  # what every create asks for
        self._generation = 0  # what was read before the last change must not be kept
        self._reported: Batcher[Report, None] = Batcher(self._write_reports)
        self._presented: Batcher[_Presented, None] = Batcher(self._write_presented)

    # --- the catalogue ---

    async def all(self) -> list[Image]:
        return sorted((await self._all()).values(), key=lambda image: (image.name, image.arch))

    async def find(self, name: str, arch: str) -> Image | None:
        return (await self._all()).get((name, arch))

    async def _all(self) -> dict[tuple[str, str], Image]:
        if self._catalogue is not None:
            return self._catalogue
        generation = self._generation
        async with self._database.read() as connection:
            found = {(image.name, image.arch): image for image in await catalogue(connection)}
        if generation == self._generation:
            self._catalogue = found
        return found

    def forget(self) -> None:
        """Something was applied, here or by another coordinator."""
        self._generation += 1
        self._catalogue = None

    async def remove(self, name: str, arch: str) -> list[Image]:
        """Take a name out of the catalogue, for one architecture or, where none is given, for all.

        Hosts keep what they have of it until they need the room.

        Raises:
            ImageUnknown, ImageInUse: nothing was changed.
        """
        try:
            return await self._remove(name, arch)
        finally:
            self.forget()

    @retried
    async def _remove(self, name: str, arch: str) -> list[Image]:
        async with self._database.write() as connection:
            found = [i for i in await catalogue(connection) if i.name == name and arch in ("", i.arch)]
            if not found:
                of = f" for {arch}" if arch else ""
                raise ImageUnknown(f"there is no image '{name}'{of} in the catalogue")
            arches = [image.arch for image in found]
            query = sa.select(pools.c.name).where(pools.c.image == name, pools.c.arch.in_(arches))
            users = sorted(await connection.scalars(query))
            if users:
                raise ImageInUse(
                    f"image '{name}' is named by pool {', '.join(users)}", hint="let them name another image first"
                )
            changed.of(connection).catalog = True
            await connection.execute(sa.delete(images).where(images.c.name == name, images.c.arch.in_(arches)))
            for image in found:
                await self._audit.write(connection, "removed", f"image {name}/{image.arch}")
            return found

    # --- on the hosts ---

    async def on_hosts(self, sha256s: Collection[str]) -> list[OnHost]:
        """How it stands with these contents on all hosts that have heard of them."""
        query = sa.select(host_images).where(host_images.c.sha256.in_(sha256s))
        async with self._database.read() as connection:
            return [to_on_host(row) for row in await connection.execute(query.order_by(host_images.c.host))]

    async def wanted(self) -> list[tuple[str, Image]]:
        """Which hosts are to fetch what and have not begun, by host and image."""
        query = sa.select(host_images.c.host, images).join(images, images.c.sha256 == host_images.c.sha256)
        async with self._database.read() as connection:
            wanted = query.where(host_images.c.state == ImageState.WANTED)
            rows = await connection.execute(wanted.order_by(host_images.c.host, images.c.name, images.c.arch))
            return [(row.host, to_image(row)) for row in rows]

    @retried
    async def want(self, image: Image, hosts: Collection[str]) -> list[str]:
        """Let hosts fetch a content, now or when they next connect; returns those that do not have it yet."""
        now, sha256 = self._clock(), image.sha256
        async with self._database.write() as connection:
            known = await _rows(connection, hosts)
            wanting = [host for host in sorted(hosts) if domain.may_be_wanted(known.get((host, sha256)))]
            changed.of(connection).hosts.update(wanting)
            olds = [known.get((host, sha256)) for host in wanting]
            rows = [domain.wanted(old, host, sha256, now) for host, old in zip(wanting, olds, strict=True)]
            await _replace(connection, [(row.host, row.sha256) for row in rows], rows)
            if wanting:
                after = {"hosts": wanting}
                await self._audit.write(connection, "prefetched", f"image {image.name}/{image.arch}", after=after)
        return wanting

    async def report(self, report: Report) -> None:
        """Take what a host says of one content; returns when it is on disk."""
        await self._reported.submit(report)

    @retried
    async def _write_reports(self, reports: Sequence[Report]) -> Sequence[None]:
        now = self._clock()
        async with self._database.write() as connection:
            known = await _rows(connection, {report.host for report in reports})
            became = dict(known)
            for report in reports:
                key = (report.host, report.sha256)
                row = domain.on_report(became.pop(key, None), report, now, self._chance())
                if row is not None:
                    became[key] = row
            await _save(connection, known, became)
        return [None] * len(reports)

    async def present(self, host: str, reports: Iterable[Report]) -> None:
        """An agent has connected and says all there is to say: what it does not name it does not have."""
        await self._presented.submit(_Presented(host, tuple(reports)))

    @retried
    async def _write_presented(self, presented: Sequence[_Presented]) -> Sequence[None]:
        """Hosts that connect together share a transaction, and where nothing has changed, nothing is written."""
        now, chance = self._clock(), self._chance()
        newest = {one.host: one.reports for one in presented}
        async with self._database.read() as connection:
            before = await _rows(connection, newest)
        if _as_presented(before, newest, now, chance) == before:
            return [None] * len(presented)
        async with self._database.write() as connection:
            known = await _rows(connection, newest)
            await _save(connection, known, _as_presented(known, newest, now, chance))
        return [None] * len(presented)


Rows = dict[tuple[str, str], OnHost]


def _as_presented(known: Rows, newest: Mapping[str, tuple[Report, ...]], now: datetime, chance: float) -> Rows:
    became: Rows = {}
    for host, reports in newest.items():
        of_host = {sha256: row for (name, sha256), row in known.items() if name == host}
        became |= {(row.host, row.sha256): row for row in domain.on_presented(of_host, reports, now, chance)}
    return became


async def catalogue(connection: AsyncConnection) -> list[Image]:
    return [to_image(row) for row in await connection.execute(sa.select(images))]


async def held_by(connection: AsyncConnection, hosts: Collection[str] | None = None) -> dict[str, Held]:
    """What hosts have of the catalogue, or could not fetch; of all hosts where none are named."""
    query = sa.select(host_images).where(
        (host_images.c.state == ImageState.HAVE) | host_images.c.cool_until.is_not(None)
    )
    if hosts is not None:
        query = query.where(host_images.c.host.in_(hosts))
    by_host: dict[str, list[OnHost]] = {}
    for row in await connection.execute(query):
        by_host.setdefault(row.host, []).append(to_on_host(row))
    return {host: held(rows) for host, rows in by_host.items()}


def to_image(row: Row) -> Image:
    return Image(row.name, row.arch, row.url, row.sha256, ImageFormat(row.format), Compression(row.compression))


def to_on_host(row: Row) -> OnHost:
    values: dict[str, Any] = {name: getattr(row, name) for name in OnHost.__struct_fields__}
    return OnHost(**values | {"state": ImageState(row.state)})


async def _rows(connection: AsyncConnection, hosts: Collection[str]) -> Rows:
    query = sa.select(host_images).where(host_images.c.host.in_(hosts))
    return {(row.host, row.sha256): to_on_host(row) for row in await connection.execute(query)}


async def _save(connection: AsyncConnection, known: Rows, became: Rows) -> None:
    """Write the differences, and tell planners of hosts whose images they now see otherwise."""
    keys = [key for key in known.keys() | became.keys() if known.get(key) != became.get(key)]
    for key in keys:
        if held(_some(known.get(key))) != held(_some(became.get(key))):
            changed.of(connection).hosts.add(key[0])
    await _replace(connection, keys, [became[key] for key in keys if key in became])


def _some(row: OnHost | None) -> list[OnHost]:
    return [row] if row is not None else []


async def _replace(connection: AsyncConnection, keys: Sequence[tuple[str, str]], rows: Sequence[OnHost]) -> None:
    if keys:
        mine = (host_images.c.host == sa.bindparam("a_host")) & (host_images.c.sha256 == sa.bindparam("a_sha256"))
        named = [{"a_host": host, "a_sha256": sha256} for host, sha256 in sorted(keys)]
        await connection.execute(sa.delete(host_images).where(mine), named)
    if rows:
        ordered = sorted(rows, key=lambda row: (row.host, row.sha256))  # two coordinators must not wait for each other
        await connection.execute(sa.insert(host_images), [msgspec.structs.asdict(row) for row in ordered])
