"""Images and the overlays on them, by qemu-img."""

import os
import threading
from pathlib import Path
from typing import Final

import msgspec

from providers.contract import Arch, ImageUnavailable, ProviderError
from providers.images import qemu_img
from providers.libvirt.settings import ImageFile

_GIB: Final = 1 << 30
_PIECE: Final = 4096
_KINDS: Final = 16  # remembered: some 20 KiB each
_DISK_MODE: Final = 0o600


class Base(msgspec.Struct, frozen=True):
    """What an overlay is laid on; `size` in bytes, as the guest sees it."""

    filename: str
    format: str
    size: int


class Images:
    """The images that this host was configured with. Blocks."""

    def __init__(self, files: list[ImageFile]) -> None:
        self._files = {(file.name, file.arch): file for file in files}
        self._known: dict[tuple[str, int, int], Base] = {}

    def usable(self) -> dict[Arch, tuple[str, ...]]:
        """The names of those that are there."""
        there = [key for key, file in sorted(self._files.items()) if Path(file.path).is_file()]
        return {arch: tuple(name for name, of in there if of is arch) for arch in Arch}

    def find(self, name: str, arch: Arch) -> Base:
        """The image of that name.

        Raises:
            ImageUnavailable: not configured for the architecture, not there, or not an image.
        """
        file = self._files.get((name, arch))
        if file is None:
            have = ", ".join(f"{name} ({arch})" for name, arch in sorted(self._files)) or "none"
            raise ImageUnavailable(
                f"image '{name}' for {arch} is not configured on this host",
                hint=f"add an [[image]]; configured: {have}",
            )
        try:
            stat = Path(file.path).stat()
        except OSError as error:
            raise ImageUnavailable(
                f"image '{name}': {file.path}: {error.strerror}",
                hint="put the file there or correct its [[image]] path",
            ) from error
        key = (file.path, stat.st_mtime_ns, stat.st_size)
        if key not in self._known:
            self._known[key] = _inspect(file)
        return self._known[key]


class Blank(msgspec.Struct, frozen=True):
    """An overlay that nothing was written to: its length, and what of it is not zeros, by where it begins."""

    length: int
    pieces: tuple[tuple[int, bytes], ...]

    @staticmethod
    def of(path: Path) -> "Blank":
        content = path.read_bytes()
        pages = ((at, content[at : at + _PIECE]) for at in range(0, len(content), _PIECE))
        return Blank(len(content), tuple((at, page) for at, page in pages if any(page)))

    def write(self, path: Path) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _DISK_MODE), "wb") as file:
            for at, piece in self.pieces:
                file.seek(at)
                file.write(piece)
            file.truncate(self.length)


class Overlays:
    """Makes sparse copy-on-write disks. Blocks; safe to call from several threads.

    qemu-img makes the first of a kind: image and size. The next ones are the same to the byte, so they are copies.
    """

    def __init__(self) -> None:
        self._blanks: dict[tuple[str, str, int], Blank] = {}
        self._making = threading.Lock()

    def create(self, base: Base, disk: Path, disk_gib: int) -> None:
        """Make one of `disk_gib`, or of the image's size where that is more.

        Raises:
            ProviderError: qemu-img failed.
        """
        size = max(disk_gib * _GIB, base.size)
        # By its name alone, a link of the machine's own is called the same in every machine.
        image = Path(base.filename)
        backing = image.name if image.parent == disk.parent else base.filename
        kind = (backing, base.format, size)
        with self._making:
            blank = self._blanks.pop(kind, None)
            if blank is None:
                _create(backing, base.format, disk, size)
                self._blanks = dict([*self._blanks.items()][1 - _KINDS :])
            self._blanks[kind] = blank or Blank.of(disk)
        if blank is not None:
            blank.write(disk)


def _create(backing: str, backing_format: str, disk: Path, size: int) -> None:
    done = qemu_img.run("create", "-q", "-f", "qcow2", "-b", backing, "-F", backing_format, str(disk), str(size))
    if done.returncode != 0:
        raise ProviderError(
            f"the disk cannot be made: {qemu_img.said(done)}", hint=f"see the space left at {disk.parent}"
        )
    disk.chmod(_DISK_MODE)


def _inspect(file: ImageFile) -> Base:
    found = qemu_img.info(Path(file.path))
    if isinstance(found, str):
        raise ImageUnavailable(f"image '{file.name}': {file.path} cannot be read: {found}")
    if found.format not in {"qcow2", "raw"} or found.outside:
        raise ImageUnavailable(
            f"image '{file.name}': {file.path} is {found.format}" + (f" on {found.outside}" if found.outside else ""),
            hint="an image is one qcow2 or raw file: qemu-img convert -O qcow2 OLD NEW",
        )
    return Base(file.path, found.format, found.size)
