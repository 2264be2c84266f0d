"""Why an image could not be had. Every code is one of `hostler.images.FETCH_CODES`."""

from typing import ClassVar

from providers.contract import ProviderError


class FetchError(ProviderError):
    """Base of them. Nothing that could be booted is left behind."""


class FetchFailed(FetchError):
    """The server did not give the file, or the connection broke too often."""

    code: ClassVar[str] = "image_fetch_failed"


class FetchRefused(FetchError):
    """The agent does not fetch from there."""

    code: ClassVar[str] = "image_fetch_refused"


class ChecksumWrong(FetchError):
    """The file is not the one that the catalogue means."""

    code: ClassVar[str] = "image_fetch_checksum"
    hint = "compare `sha256sum` of the file at the URL with the catalogue's entry"


class ImageUnusable(FetchError):
    """The file is the right one, but holds no image of the stated kind."""

    code: ClassVar[str] = "image_fetch_unusable"


class ImageTooLarge(FetchError):
    """The file, or what is in it, is beyond what this host allows."""

    code: ClassVar[str] = "image_fetch_too_large"
    hint = "raise [images] largest_gib and quota_gib of the agent's configuration, or use a smaller image"


class NoSpace(FetchError):
    """The file system is full, or the quota is taken by images in use."""

    code: ClassVar[str] = "image_fetch_no_space"


class FetchStopped(FetchError):
    """The agent stops; what was fetched is kept for its next start."""

    code: ClassVar[str] = "image_fetch_failed"
