"""What may be declared of an image: where it is, what it is, and what its file's name says of both."""

import re
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from hostler import config
from hostler.images import SUFFIXES, Compression, ImageFormat

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_FORMATS = {".qcow2": ImageFormat.QCOW2, ".raw": ImageFormat.RAW, ".tar": ImageFormat.LXD}


class ImageDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    url: str
    sha256: str  # of the file as it is at the URL, packed or not
    arch: Literal["amd64", "arm64"] = "amd64"
    format: ImageFormat | None = None  # where it is not said: by the file's name
    compression: Compression | None = None

    def __post_init__(self) -> None:
        named = bool(_NAME.fullmatch(self.name))
        config.check(named, f"name: '{self.name}' must be 1 to 128 of letters, digits and ._:/-, a letter first")
        config.check(
            bool(_SHA256.fullmatch(self.sha256)),
            f"sha256: '{self.sha256[:80]}' must be 64 hexadecimal digits: what `sha256sum` says of the file at the url",
        )
        config.check_key("url", self._check_url)
        config.check(
            self.format is not None or self._suffix in _FORMATS,
            f"format: must be said, for '{self._file}' does not end in {' or '.join(_FORMATS)} (before .gz, .xz, .zst)",
        )

        packed = self.compression not in (None, Compression.NONE)
        config.check(
            not (packed and self.disk_format is ImageFormat.LXD),
            "compression: LXD itself unpacks its tarballs: leave it out",
        )

    @property
    def digest(self) -> str:
        return self.sha256.lower()

    @property
    def disk_format(self) -> ImageFormat:
        return self.format or _FORMATS[self._suffix]

    @property
    def packed_by(self) -> Compression:
        if self.disk_format is ImageFormat.LXD:
            return Compression.NONE  # its fingerprint is that of the file as it is
        return self.compression or SUFFIXES.get(PurePosixPath(self._file).suffix, Compression.NONE)

    @property
    def _file(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @property
    def _suffix(self) -> str:
        """Of the file's name, without that of its packing."""
        path = PurePosixPath(self._file)
        return path.with_suffix("").suffix if path.suffix in SUFFIXES else path.suffix

    def _check_url(self) -> None:
        reason = "is no http, https or file address, for example https://host.example/debian.qcow2.xz"
        try:
            parts = urlsplit(self.url)
            web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise ValueError(reason) from None
        local = parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/")
        config.check("@" not in parts.netloc, "must hold no user and no password")
        plain = self.url.isascii() and self.url.isprintable() and " " not in self.url
        config.check((web or local) and plain and bool(self._file), f"'{self.url}' {reason}")
        config.check(not parts.fragment and not (local and parts.query), f"'{self.url}' must end with the file's name")
