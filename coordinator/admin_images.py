"""What the admin client asks about images: the catalogue, and how it stands with it on the hosts."""

from collections import Counter
from collections.abc import Iterable

from coordinator.domain.images import Image, OnHost
from coordinator.fleet import wire
from coordinator.fleet.links import Links
from coordinator.store.hosts import HostRecord
from coordinator.store.images import ImageUnknown
from coordinator.store.store import Store
from hostler.errors import HostlerError
from hostler.images import ImageState
from protos.hostler.v1 import admin_pb2 as pb
from protos.hostler.v1 import fleet_pb2

_COMING = (ImageState.WANTED, ImageState.FETCHING)


class HostUnsuitable(HostlerError):
    """The host cannot have the image."""

    code = "host_unsuitable"


class ImageAdmin:
    def __init__(self, store: Store, links: Links) -> None:
        self._store = store
        self._links = links

    async def catalogue(self) -> pb.ListImagesResponse:
        images = await self._store.images.all()
        on_hosts = await self._store.images.on_hosts({image.sha256 for image in images})
        return pb.ListImagesResponse(images=_counted(images, on_hosts))

    async def get(self, name: str) -> pb.GetImageResponse:
        """
        Raises:
            ImageUnknown: the catalogue has none of that name.
        """
        images = await self._named(name)
        on_hosts = await self._store.images.on_hosts({image.sha256 for image in images})
        arches = {image.sha256: image.arch for image in images}
        hosts = [self._on_host(one, arches[one.sha256]) for one in on_hosts]
        return pb.GetImageResponse(images=_counted(images, on_hosts), hosts=hosts)

    async def remove(self, name: str, arch: str) -> pb.RemoveImageResponse:
        """
        Raises:
            ImageUnknown, ImageInUse: nothing was changed.
        """
        return pb.RemoveImageResponse(removed=map(_image, await self._store.images.remove(name, arch)))

    async def prefetch(self, name: str, host: str) -> pb.PrefetchImagesResponse:
        """
        Raises:
            ImageUnknown, HostUnsuitable: nothing was ordered.
        """
        images = await self._named(name)
        hosts = [one for one in await self._store.hosts.all() if host in ("", one.name)]
        able = {image: [one.name for one in hosts if _can_have(one, image)] for image in images}
        if host and not any(able.values()):
            raise _unsuitable(name, host, hosts[0] if hosts else None, images)
        answer = pb.PrefetchImagesResponse()
        for image, names in able.items():
            wanting = await self._store.images.want(image, names)
            answer.hosts.extend(wanting)
            answer.have.extend(sorted(set(names) - set(wanting)))
        return answer

    async def _named(self, name: str) -> list[Image]:
        found = [image for image in await self._store.images.all() if image.name == name]
        if not found:
            raise ImageUnknown(f"there is no image '{name}' in the catalogue")
        return found

    def _on_host(self, one: OnHost, arch: str) -> pb.ImageOnHost:
        """As it is in the database, with the progress that the host's stream has told, where it is here."""
        link = self._links.get(one.host)
        newest = link.images.get(one.sha256) if link is not None else None
        fetching = newest is not None and newest.state == fleet_pb2.IMAGE_STATE_FETCHING
        return pb.ImageOnHost(
            host=one.host,
            arch=arch,
            state=one.state.value,
            bytes=newest.bytes if newest is not None and fetching else one.bytes,
            total_bytes=newest.total_bytes if newest is not None and fetching else 0,
            error_code=one.error_code,
            detail=one.detail,
            changed_at=wire.timestamp(one.changed_at),
            rests_until=wire.timestamp(one.cool_until) if one.cool_until is not None else None,
        )


def _can_have(host: HostRecord, image: Image) -> bool:
    return image.arch in host.arches and any(
        driver.fetches and (host.arch == image.arch or image.arch in driver.emulated)
        for driver in host.drivers.values()
    )


def _unsuitable(name: str, host: str, record: HostRecord | None, images: list[Image]) -> HostUnsuitable:
    if record is None:
        return HostUnsuitable(f"there is no host '{host}'", hint="see `hostler fleet status`")
    arches = " and ".join(sorted(image.arch for image in images))
    if not record.arches & {image.arch for image in images}:
        own = " and ".join(sorted(record.arches))
        return HostUnsuitable(f"host '{host}' is {own}, and the image '{name}' is there for {arches}")
    return HostUnsuitable(
        f"host '{host}' fetches no images of the catalogue", hint="its drivers do not, or its agent is too old"
    )


def _counted(images: Iterable[Image], on_hosts: Iterable[OnHost]) -> list[pb.Image]:
    counts = Counter((one.sha256, one.state) for one in on_hosts)
    answers = []
    for image in images:
        answer = _image(image)
        answer.hosts_have = counts[image.sha256, ImageState.HAVE]
        answer.hosts_fetching = sum(counts[image.sha256, state] for state in _COMING)
        answer.hosts_failed = counts[image.sha256, ImageState.FAILED]
        answers.append(answer)
    return answers


def _image(image: Image) -> pb.Image:
    return pb.Image(
        name=image.name,
        arch=image.arch,
        url=image.url,
        sha256=image.sha256,
        format=image.format,
        compression=image.compression,
    )
