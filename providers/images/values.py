"""What an image is to this host: where it is to be had, and the base that was made of it."""

from pathlib import Path
from typing import Final

import msgspec

from hostler.images import Compression, ImageFormat, ImageState

ROOM_STEP_BYTES: Final = 64 << 20
"""After so many bytes more, room is made for them, where nothing says how many will come."""


class ImageSource(msgspec.Struct, frozen=True):
    """A content of the catalogue: known by its digest, whatever its name and wherever it comes from."""

    name: str
    url: str
    sha256: str  # of the file at the URL, lower case
    format: ImageFormat
    compression: Compression = Compression.NONE


class BaseFile(msgspec.Struct, frozen=True):
    """An image ready to be used: never written to, and never moved while somebody holds it or a hard link to it."""

    path: Path
    format: ImageFormat
    virtual_bytes: int  # the disk's size as a guest sees it


class ImageStatus(msgspec.Struct, frozen=True):
    """How it stands with one content on this host."""

    sha256: str
    state: ImageState
    bytes: int = 0  # fetched so far, or on disk
    total_bytes: int = 0  # 0: not known
    error_code: str = ""
    detail: str = ""
