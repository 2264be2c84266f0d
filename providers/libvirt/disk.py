"""Images and the overlays on them, by qemu-img."""

import subprocess
from pathlib import Path
from typing import Final

import msgspec

from providers.contract import Arch, ImageUnavailable, ProviderError
from providers.libvirt.settings import ImageFile

_GIB: Final = 1 << 30
_TIME_LIMIT_SECONDS: Final = 60


class Base(msgspec.Struct, frozen=True, rename={"size": "virtual-size", "backing": "backing-filename"}):
    """An image as `qemu-img info` sees it; `size` in bytes, as the guest sees it."""

    filename: str
    format: str
    size: int
    backing: str | None = None


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
    done = _qemu_img(command)
    if done.returncode != 0:
        raise ProviderError(f"the disk cannot be made: {_said(done)}", hint=f"see the space left at {disk.parent}")
    disk.chmod(0o600)


def _inspect(file: ImageFile) -> Base:
    done = _qemu_img(["info", "--output=json", file.path])
    try:
        base = msgspec.json.decode(done.stdout, type=Base) if done.returncode == 0 else None
    except msgspec.MsgspecError:
        base = None
    if base is None:
        raise ImageUnavailable(f"image '{file.name}': {file.path} cannot be read: {_said(done)}")
    if base.format not in {"qcow2", "raw"} or base.backing is not None:
        raise ImageUnavailable(
            f"image '{file.name}': {file.path} is {base.format}" + (f" on {base.backing}" if base.backing else ""),
            hint="an image is one qcow2 or raw file: qemu-img convert -O qcow2 OLD NEW",
        )
    return base


def _qemu_img(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["qemu-img", *arguments], capture_output=True, timeout=_TIME_LIMIT_SECONDS, check=False)
    except FileNotFoundError as error:
        raise ProviderError("qemu-img is not installed", hint="apt install qemu-utils") from error
    except subprocess.TimeoutExpired as error:
        raise ProviderError(f"qemu-img {arguments[0]} did not end in {_TIME_LIMIT_SECONDS} s") from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace").strip() or f"qemu-img ended with {done.returncode}"
