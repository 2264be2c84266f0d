"""The few things that are done with qemu-img. Blocks."""

import errno
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from hostler.images import ImageFormat
from providers.contract import ProviderError
from providers.images.errors import FetchStopped, ImageTooLarge, ImageUnusable

_TIME_LIMIT_SECONDS: Final = 60
_LOOK_SECONDS: Final = 0.1


class Info(msgspec.Struct, frozen=True, rename={"size": "virtual-size", "backing": "backing-filename"}):
    """An image as `qemu-img info` sees it; `size` in bytes, as the guest sees it."""

    filename: str
    format: str
    size: int
    backing: str | None = None
    encrypted: bool = False
    specific: dict[str, Any] = msgspec.field(default_factory=dict, name="format-specific")

    @property
    def outside(self) -> str:
        """Another file that it would read, which an image of others must not name; empty: none."""
        data: dict[str, Any] = self.specific.get("data", {})
        return self.backing or str(data.get("data-file", ""))


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """
    Raises:
        ProviderError: it is not there, or does not come to an end.
    """
    try:
        return subprocess.run(["qemu-img", *arguments], capture_output=True, timeout=_TIME_LIMIT_SECONDS, check=False)
    except FileNotFoundError as error:
        raise ProviderError("qemu-img is not installed", hint="apt install qemu-utils") from error
    except subprocess.TimeoutExpired as error:
        raise ProviderError(f"qemu-img {arguments[0]} did not end in {_TIME_LIMIT_SECONDS} s") from error


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace").strip() or f"qemu-img ended with {done.returncode}"


def info(path: Path, image_format: str = "") -> Info | str:
    """What it says of a file, or why it cannot read it. Without a format it looks for itself."""
    asked = ["-f", image_format] if image_format else []
    done = run("info", *asked, "--output=json", str(path))
    try:
        return msgspec.json.decode(done.stdout, type=Info) if done.returncode == 0 else said(done)
    except msgspec.MsgspecError as error:
        return f"qemu-img's answer is not understood: {error}"


def make_base(
    unpacked: Path, image_format: ImageFormat, target: Path, *, largest_bytes: int, stopping: Callable[[], bool]
) -> int:
    """Make a qcow2 file of an unpacked image, which is moved or converted, and gone then. Returns the disk's size.

    Raises:
        ImageUnusable: it is not of that format, or reads other files.
        ImageTooLarge: its disk is larger than `largest_bytes`.
    """
    found = info(unpacked, image_format)
    if isinstance(found, str):
        raise ImageUnusable(f"it is no {image_format} image: {found}")
    if found.outside or found.encrypted:
        what = f"reads {found.outside}" if found.outside else "is encrypted"
        raise ImageUnusable(f"it {what}", hint="an image is one file: qemu-img convert -O qcow2 OLD NEW")
    if found.size > largest_bytes:
        raise ImageTooLarge(f"its disk has {found.size} bytes, and this host takes {largest_bytes}")
    if image_format is ImageFormat.QCOW2:
        unpacked.rename(target)
    else:
        _convert(unpacked, target, stopping)
        unpacked.unlink()
    return found.size


def _convert(raw: Path, target: Path, stopping: Callable[[], bool]) -> None:
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as one:
        while one.poll() is None:
            if stopping():
                one.kill()
                raise FetchStopped("the agent stops")
            time.sleep(_LOOK_SECONDS)
        error = one.stderr.read() if one.stderr else b""
    if one.returncode != 0:
        done = subprocess.CompletedProcess(command, one.returncode, b"", error)
        if any(full in said(done) for full in ("No space left", "File too large", "Disk quota")):
            raise OSError(errno.ENOSPC, said(done))
        raise ImageUnusable(f"it cannot be converted: {said(done)}")
