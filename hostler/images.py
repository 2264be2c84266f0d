"""Images as they travel: the words that coordinator, agent and providers share."""

from datetime import timedelta
from enum import StrEnum
from typing import Final


class ImageFormat(StrEnum):
    """Of the disk, once it is unpacked."""

    QCOW2 = "qcow2"
    RAW = "raw"
    LXD = "lxd"  # a unified tarball, as `lxc image export` makes it; LXD itself unpacks it


class Compression(StrEnum):
    """Of the file at the URL."""

    NONE = "none"
    GZ = "gz"
    XZ = "xz"
    ZSTD = "zstd"


SUFFIXES: Final = {
    ".gz": Compression.GZ,
    ".xz": Compression.XZ,
    ".zst": Compression.ZSTD,
    ".zstd": Compression.ZSTD,
}


class ImageState(StrEnum):
    """Of one content on one host."""

    WANTED = "wanted"  # to be fetched; the host has not said that it has begun
    FETCHING = "fetching"
    HAVE = "have"
    FAILED = "failed"
    GONE = "gone"  # dropped, and not known of any more


FETCH_CODES: Final = frozenset(
    {
        "image_fetch_failed",
        "image_fetch_refused",
        "image_fetch_checksum",
        "image_fetch_unusable",
        "image_fetch_too_large",
        "image_fetch_no_space",
    }
)
"""Errors of fetching: they say something of this image on this host, nothing of the pool, and little of the host."""

FETCH_LIMIT: Final = timedelta(hours=2)
"""How long an agent tries to fetch one image before it gives up; what it has of the file is kept for the next try."""
