"""The directory of images: what is in it, whether it is still what was put there, and what may go. Blocks.

<sha256>.base           an image ready to be used, and hard links to it wherever a machine uses it
<sha256>.base.json      what was put there; its time of change is when the image was last used
<sha256>.part, .part.json   a download under way, see download.py
<sha256>.unpacked, .making  of no use to anybody but the process that writes it

The digest is of the file at the URL. A machine holds its base by a hard link of its own: so nobody need ask who uses
what, also after a crash, and what is dropped here by mistake is still there for whoever booted from it.
"""

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Final

import msgspec
import structlog

from hostler.images import ImageFormat
from providers.images.lru import Kept
from providers.images.values import BaseFile, ImageSource

_DIRECTORY_MODE: Final = 0o711  # QEMU's own user must get through
_BASE_MODE: Final = 0o444
_PART_KEPT_SECONDS: Final = 7 * 86400
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

_log = structlog.get_logger(__name__)


class Record(msgspec.Struct, frozen=True):
    """What was put on the shelf."""

    name: str
    format: ImageFormat
    virtual_bytes: int
    bytes: int
    mtime_ns: int
    sha256: str  # of the base itself


class Shelf:
    """Safe to call from several threads for different images."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self) -> list[str]:
        """Make the directory, clear away what a killed process left, and name the images that are whole."""
        self.directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        for pattern in ("*.unpacked", "*.making", "*.new"):
            for left in self.directory.glob(pattern):
                left.unlink(missing_ok=True)
        for part in self.directory.glob("*.part"):
            if time.time() - part.stat().st_mtime > _PART_KEPT_SECONDS:
                discard(part)
        for base in self.directory.glob("*.base"):
            if not self._record_path(base.stem).exists():
                base.unlink(missing_ok=True)
            else:
                self.clear(base.stem)
        shas = [path.name.removesuffix(".base.json") for path in sorted(self.directory.glob("*.base.json"))]
        return [sha256 for sha256 in shas if _SHA256.fullmatch(sha256) and self.get(sha256) is not None]

    def part(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.part"

    def unpacked(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.unpacked"

    def making(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.making"

    def get(self, sha256: str) -> BaseFile | None:
        """An image as it was put here; one that is not is dropped.

        Size and time of change are enough to tell; where they do not fit, every byte is read.
        """
        record, base = self._record(sha256), self._base(sha256)
        if record is None or not base.exists():
            self._forget(sha256)
            return None
        stat = base.stat()
        if (stat.st_size, stat.st_mtime_ns) != (record.bytes, record.mtime_ns):
            if stat.st_size != record.bytes or _digest(base) != record.sha256:
                _log.error("an image is damaged, and dropped", image=record.name, path=str(base))
                self._forget(sha256)
                return None
            self._write(sha256, msgspec.structs.replace(record, mtime_ns=stat.st_mtime_ns))
        return BaseFile(base, record.format, record.virtual_bytes)

    def put(self, source: ImageSource, made: Path, image_format: ImageFormat, virtual_bytes: int) -> BaseFile:
        """Take in a finished file: on disk before its name is, and known only once it is both."""
        made.chmod(_BASE_MODE)
        with made.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            stat = os.fstat(file.fileno())
        base = self._base(source.sha256)
        made.rename(base)
        record = Record(source.name, image_format, virtual_bytes, stat.st_size, stat.st_mtime_ns, sha256)
        self._write(source.sha256, record)
        return BaseFile(base, image_format, virtual_bytes)

    def touch(self, sha256: str) -> None:
        """It is used now."""
        os.utime(self._record_path(sha256))

    def size(self, sha256: str) -> int:
        """Bytes on disk."""
        try:
            return _filled(self._base(sha256))
        except FileNotFoundError:
            return 0

    def kept(self) -> list[Kept]:
        """All that takes room, with downloads that nobody goes on with; `name` is the digest."""
        found = []
        for path in [*self.directory.glob("*.base"), *self.directory.glob("*.part")]:
            dated = self._record_path(path.stem) if path.suffix == ".base" else path
            try:
                used, links = dated.stat().st_mtime, path.stat().st_nlink
                found.append(Kept(path.stem, _filled(path), used, in_use=links > 1))
            except FileNotFoundError:
                continue
        return found

    def drop(self, sha256: str) -> None:
        """Remove an image, or what there is of a download; machines that use it keep it."""
        self._forget(sha256)
        self.clear(sha256)

    def _forget(self, sha256: str) -> None:
        self._base(sha256).unlink(missing_ok=True)
        self._record_path(sha256).unlink(missing_ok=True)

    def clear(self, sha256: str) -> None:
        """Remove what is on its way to be an image."""
        discard(self.part(sha256))
        self.clear_making(sha256)

    def clear_making(self, sha256: str) -> None:
        self.unpacked(sha256).unlink(missing_ok=True)
        self.making(sha256).unlink(missing_ok=True)

    def _base(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.base"

    def _record_path(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.base.json"

    def _record(self, sha256: str) -> Record | None:
        try:
            return msgspec.json.decode(self._record_path(sha256).read_bytes(), type=Record)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def _write(self, sha256: str, record: Record) -> None:
        path = self._record_path(sha256)
        draft = path.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def discard(part: Path) -> None:
    """Remove a part file and what is known of it."""
    part.unlink(missing_ok=True)
    part.with_suffix(".part.json").unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _filled(path: Path) -> int:
    return path.stat().st_blocks * 512
