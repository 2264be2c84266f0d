"""What LXD is sent of an image of the catalogue, and which images it is told to drop."""

import io
import json
import tarfile
from collections.abc import Iterable
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pylxd.exceptions import LXDAPIException

from hostler.images import ImageFormat
from providers.contract import Arch, Bootstrap, ImageUnavailable, InstanceSpec, Resources
from providers.images.values import BaseFile, ImageSource
from providers.lxd import api, catalogue
from providers.lxd.request import CONTAINERS, VIRTUAL_MACHINES

DISK = b"\r\n--a disk" * 200_000  # more than one piece
SHA256 = "ab" * 32


class Store:
    """LXD's, as far as it matters here: it reads what it is sent as LXD does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[api.Image] = []
        self.sent: list[dict[str, bytes]] = []
        self.refuses = False
        monkeypatch.setattr(api, "images", lambda _: list(self.images))
        monkeypatch.setattr(api, "add_image", lambda _, body, headers: self._add(body, headers))
        monkeypatch.setattr(api, "drop_image", lambda _, fingerprint: self._drop(fingerprint))

    def _add(self, body: Iterable[bytes], headers: dict[str, str]) -> str:
        if self.refuses:
            raise LXDAPIException(_Response())
        parts = _parts(b"".join(body), headers["Content-Type"])
        self.sent.append(parts)
        properties = {key: value for key, (value,) in parse_qs(headers["X-LXD-properties"]).items()}
        kind = "virtual-machine" if "rootfs.img" in parts else "container"
        fingerprint = SHA256 if kind == "container" else "cd" * 32
        self.images.append(api.Image(fingerprint, kind, "x86_64", properties=properties))
        return fingerprint

    def _drop(self, fingerprint: str) -> None:
        self.images = [image for image in self.images if image.fingerprint != fingerprint]


class _Response:
    status_code = 400

    def json(self) -> dict[str, Any]:
        return {"error": "not an image"}


def _parts(body: bytes, content_type: str) -> dict[str, bytes]:
    if not content_type.startswith("multipart"):
        return {"": body}
    read = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    found: dict[str, bytes] = {}
    for part in read.get_payload():
        assert isinstance(part, Message)
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found[str(part.get_param("name", header="Content-Disposition"))] = content
    return found


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def base(folder: Path, image_format: ImageFormat) -> BaseFile:
    path = folder / f"{SHA256}.base"
    path.write_bytes(DISK)
    return BaseFile(path, image_format, len(DISK))


def ensure(file: BaseFile, driver: str, arch: Arch = Arch.AMD64) -> str:
    spec = InstanceSpec(
        "id", 1, "name", "debian", Resources(1, 256, 1), arch, "p", Bootstrap("", "", "t"), driver=driver
    )
    source = ImageSource("debian", "http://x/d", SHA256, file.format)
    return catalogue.ensure(None, spec, source, file)


def test_a_tarball_goes_in_as_it_is_and_once(store: Store, tmp_path: Path) -> None:
    file = base(tmp_path, ImageFormat.LXD)
    assert ensure(file, CONTAINERS) == SHA256
    assert ensure(file, CONTAINERS) == SHA256
    assert store.sent == [{"": DISK}]


def test_a_tarball_that_somebody_else_has_put_there_is_used_and_stays(store: Store, tmp_path: Path) -> None:
    store.images = [api.Image(SHA256, "container", "x86_64")]
    file = base(tmp_path, ImageFormat.LXD)
    assert ensure(file, CONTAINERS) == SHA256
    file.path.unlink()
    catalogue.drop_what_is_gone(None)
    assert (len(store.images), store.sent) == (1, [])


def test_a_disk_goes_in_with_what_lxd_must_know_of_it(store: Store, tmp_path: Path) -> None:
    assert ensure(base(tmp_path, ImageFormat.QCOW2), VIRTUAL_MACHINES) == "cd" * 32
    (sent,) = store.sent
    assert list(sent) == ["metadata", "rootfs.img"]  # LXD wants them in this order
    assert sent["rootfs.img"] == DISK
    with tarfile.open(fileobj=io.BytesIO(sent["metadata"])) as archive:
        told = archive.extractfile("metadata.yaml")
        assert told is not None
        assert json.load(told)["architecture"] == "x86_64"


def test_what_an_instance_cannot_be_made_of_is_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match="is a disk, and containers are made of tarballs"):
        ensure(base(tmp_path, ImageFormat.QCOW2), CONTAINERS)
    with pytest.raises(ImageUnavailable, match="is a container for x86_64, not a virtual-machine for x86_64"):
        ensure(base(tmp_path, ImageFormat.LXD), VIRTUAL_MACHINES)
    with pytest.raises(ImageUnavailable, match="not a container for aarch64"):
        ensure(base(tmp_path, ImageFormat.LXD), CONTAINERS, Arch.ARM64)
    store.images, store.refuses = [], True
    with pytest.raises(ImageUnavailable, match="LXD does not take the image 'debian'"):
        ensure(base(tmp_path, ImageFormat.LXD), CONTAINERS)


def test_an_image_goes_when_its_file_is_gone(store: Store, tmp_path: Path) -> None:
    file = base(tmp_path, ImageFormat.LXD)
    ensure(file, CONTAINERS)
    catalogue.drop_what_is_gone(None)
    assert len(store.images) == 1
    file.path.unlink()
    catalogue.drop_what_is_gone(None)
    assert store.images == []
