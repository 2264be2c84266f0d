"""Images and the overlays on them, by qemu-img."""

from pathlib import Path
from typing import Final

import msgspec

from providers.contract import Arch, ImageUnavailable, ProviderError
from providers.images import qemu_img
from providers.libvirt.settings import ImageFile

_GIB: Final = 1 << 30


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

    def usable(self) -> list[str]:
        """The names of those that are there."""
        return sorted({file.name for file in self._files.values() if Path(file.path).is_file()})

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


def create_overlay(base: Base, disk: Path, disk_gib: int) -> None:
    """Make a sparse copy-on-write disk of `disk_gib`, or of the image's size where that is more.

    Raises:
        ProviderError: qemu-img failed.
    """
    size = max(disk_gib * _GIB, base.size)
    command = ["create", "-q", "-f", "qcow2", "-b", base.filename, "-F", base.format, str(disk), str(size)]
    done = qemu_img.run(*command)
    if done.returncode != 0:
        raise ProviderError(
            f"the disk cannot be made: {qemu_img.said(done)}", hint=f"see the space left at {disk.parent}"
        )
    disk.chmod(0o600)


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
