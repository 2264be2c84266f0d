"""Images of the coordinator's catalogue in LXD's own store: taken from the fetched file once, and gone with it.

A tarball of LXD's goes in as it is, so that its fingerprint is its SHA-256. A disk (qcow2) becomes a virtual machine's
image: LXD takes it with a tarball of metadata, which says here what the catalogue says. Blocks.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import msgspec
import structlog
from pylxd import Client
from pylxd.exceptions import LXDAPIException

from hostler.images import ImageFormat
from providers.contract import ImageUnavailable, InstanceSpec
from providers.images.values import BaseFile, ImageSource
from providers.lxd import api
from providers.lxd.images import ARCHITECTURES, fitting
from providers.lxd.request import CONTAINERS

_BASE: Final = "hostler.base"  # the property that names the file that an image was taken from
_BOUNDARY: Final = "hostler-image"
_CHUNK_BYTES: Final = 1 << 20

_log = structlog.get_logger(__name__)


def ensure(client: Client, spec: InstanceSpec, source: ImageSource, base: BaseFile) -> str:
    """The fingerprint of the image in LXD's store, where it is put when it is not there. Not concurrently.

    Raises:
        ImageUnavailable: it is not of the kind or architecture that the instance needs.
    """
    if base.format is not ImageFormat.LXD and spec.driver == CONTAINERS:
        raise ImageUnavailable(
            f"the image '{spec.image}' is a disk, and containers are made of tarballs",
            hint='declare a tarball of LXD with format = "lxd", or a pool of provider "lxd"',
        )
    found = _kept(client, source, base)
    if not found:
        drop_what_is_gone(client)
        fingerprint = _add(client, spec, base)
        _log.info("image added to LXD", image=source.name, fingerprint=fingerprint)
        found = [image for image in api.images(client) if image.fingerprint == fingerprint]
    return fitting(found, spec)


def drop_what_is_gone(client: Client) -> None:
    """Images whose file this host no longer has."""
    for image in api.images(client):
        path = image.properties.get(_BASE)
        if path and not Path(path).exists():
            _log.info("image dropped from LXD", fingerprint=image.fingerprint)
            api.drop_image(client, image.fingerprint)


def _kept(client: Client, source: ImageSource, base: BaseFile) -> list[api.Image]:
    """It, by the file that it was taken from; a tarball also when somebody else has put it there."""
    tarball = source.sha256 if base.format is ImageFormat.LXD else ""
    return [
        image
        for image in api.images(client)
        if image.fingerprint == tarball or image.properties.get(_BASE) == str(base.path)
    ]


def _add(client: Client, spec: InstanceSpec, base: BaseFile) -> str:
    headers = {"X-LXD-properties": urlencode({_BASE: str(base.path)}), "Content-Type": "application/octet-stream"}
    body = _file(base.path)
    if base.format is not ImageFormat.LXD:
        headers["Content-Type"] = f"multipart/form-data; boundary={_BOUNDARY}"
        body = _parts(_metadata(spec), base.path)
    try:
        return api.add_image(client, body, headers)
    except LXDAPIException as error:
        raise ImageUnavailable(
            f"LXD does not take the image '{spec.image}': {error}",
            hint="a tarball must be one that `lxc image export` makes of one piece, a disk qcow2",
        ) from error


def _parts(metadata: bytes, disk: Path) -> Iterator[bytes]:
    """As LXD reads them: the metadata first, and by the second's name it knows a virtual machine."""
    yield _head("metadata") + metadata + b"\r\n" + _head("rootfs.img")
    yield from _file(disk)
    yield f"\r\n--{_BOUNDARY}--\r\n".encode()


def _head(name: str) -> bytes:
    lines = (
        f"--{_BOUNDARY}",
        f'Content-Disposition: form-data; name="{name}"; filename="{name}"',
        "Content-Type: application/octet-stream",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _metadata(spec: InstanceSpec) -> bytes:
    """The same for the same image: LXD's fingerprint is of it and the disk. JSON is YAML."""
    about = {"architecture": ARCHITECTURES[spec.arch], "creation_date": 1, "properties": {"description": spec.image}}
    content = msgspec.json.encode(about)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("metadata.yaml")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
