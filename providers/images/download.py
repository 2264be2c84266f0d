"""One file from its URL into a part file, going on where an earlier try ended, until its digest is right. Blocks.

<sha256>.part        the file as far as it has come
<sha256>.part.json   of which version at which URL it is
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final, Protocol
from urllib.parse import unquote, urlsplit

import msgspec
import structlog

from providers.images.errors import ChecksumWrong, FetchFailed, FetchRefused, FetchStopped, ImageTooLarge
from providers.images.request import BrokenOff, Requests, Response
from providers.images.shelf import discard
from providers.images.values import ROOM_STEP_BYTES, ImageSource

CHUNK_BYTES: Final = 1 << 18
_TRIES: Final = 5  # in a row without a new byte
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TRANSIENT: Final = {408, 425, 429}

_log = structlog.get_logger(__name__)


class Watch(Protocol):
    """Whoever started it: is told how far it is, and may stop it."""

    def progress(self, done: int, total: int) -> None:
        """Bytes that are there, and how many there will be; 0: not known."""
        ...

    def room(self, coming: int) -> None:
        """That many bytes will come.

        Raises:
            NoSpace: there is no room for them.
        """
        ...

    def stopping(self) -> bool:
        """
        Raises:
            FetchFailed: it has taken too long.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Returns sooner when it is stopping."""
        ...


class Version(msgspec.Struct, frozen=True):
    """Which bytes a part file's are; `mark` is what the server tells two versions apart by, empty: it does not."""

    url: str
    mark: str


class _Part:
    """The part file, with its digest as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._about = path.with_suffix(".part.json")
        self.version = Version("", "")
        self.size = 0
        self.digest = hashlib.sha256()
        self.resumed = False
        self._file: BinaryIO | None = None

    def open(self, url: str, stopping: Callable[[], bool]) -> None:
        """Take up what there is of this URL, reading all of it for the digest."""
        self.version = self._read_version()
        if self.version.url != url or not self.version.mark:
            self.path.unlink(missing_ok=True)
        self._file = self.path.open("ab+")
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            if stopping():
                raise FetchStopped("the agent stops")
            self.digest.update(chunk)
            self.size += len(chunk)
        self.resumed = self.size > 0

    def begin_anew(self, version: Version) -> None:
        """Of another version, or for the first time."""
        file = self._opened()
        file.truncate(0)
        self.size, self.digest, self.resumed = 0, hashlib.sha256(), False
        self.version = version
        self._about.write_bytes(msgspec.json.encode(version))

    def add(self, chunk: bytes) -> None:
        self._opened().write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def sync(self) -> None:
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("the part file is not open")
        return self._file

    def _read_version(self) -> Version:
        try:
            return msgspec.json.decode(self._about.read_bytes(), type=Version)
        except (OSError, msgspec.MsgspecError):
            return Version("", "")


class Downloader:
    def __init__(self, requests: Requests, *, directories: tuple[Path, ...] = (), largest_bytes: int) -> None:
        """`directories`: where files of this host may be taken from."""
        self._requests = requests
        self._directories = directories
        self._largest_bytes = largest_bytes

    def fetch(self, source: ImageSource, path: Path, watch: Watch) -> None:
        """Bring the file to `path`; returns when all of it is on disk and its digest is right.

        Raises:
            FetchError: what was got is kept when it is good for another try.
            OSError: it cannot be written.
        """
        part = _Part(path)
        try:
            part.open(source.url, watch.stopping)
            self._complete(source, part, watch)
            part.sync()
        except (ChecksumWrong, ImageTooLarge):
            discard(path)
            raise
        finally:
            part.close()

    def _complete(self, source: ImageSource, part: _Part, watch: Watch) -> None:
        if part.digest.hexdigest() == source.sha256:
            return
        self._insist(source, part, watch)
        if part.resumed and part.digest.hexdigest() != source.sha256:
            _log.warning("a resumed download has the wrong digest and begins anew", image=source.name)
            part.begin_anew(Version(source.url, ""))
            self._insist(source, part, watch)
        found = part.digest.hexdigest()
        if found != source.sha256:
            raise ChecksumWrong(f"the file at {source.url} has the SHA-256 {found}, not {source.sha256}")

    def _insist(self, source: ImageSource, part: _Part, watch: Watch) -> None:
        """Until the end of the file, over as many connections as it takes while each brings something."""
        failures = 0
        while True:
            before = part.size
            try:
                self._go_on(source, part, watch)
            except BrokenOff as interrupted:
                _go_no_further(watch)
                failures = 1 if part.size > before else failures + 1
                if failures >= _TRIES:
                    raise FetchFailed(f"{source.url}: {interrupted}, {failures} times in a row") from interrupted
                _log.info("download interrupted", image=source.name, at=part.size, reason=str(interrupted))
                watch.pause(min(_FIRST_PAUSE_SECONDS * 2 ** (failures - 1), _LONGEST_PAUSE_SECONDS))
                _go_no_further(watch)
            else:
                return

    def _go_on(self, source: ImageSource, part: _Part, watch: Watch) -> None:
        if urlsplit(source.url).scheme == "file":
            self._from_file(source, part, watch)
        else:
            self._from_server(source, part, watch)

    def _from_server(self, source: ImageSource, part: _Part, watch: Watch) -> None:
        mark = part.version.mark
        resume = {"Range": f"bytes={part.size}-", "If-Range": mark} if part.size and mark else {}
        response = self._requests.get(source.url, resume)
        try:
            total = _take_up(response, source.url, part)
            chunks = iter(lambda: response.read(CHUNK_BYTES), b"")
            self._copy(chunks, part, total, watch)
        finally:
            response.close()

    def _from_file(self, source: ImageSource, part: _Part, watch: Watch) -> None:
        path = self._allowed(source.url)
        try:
            # Whoever may write there may have put a pipe in the file's place, which nobody ever writes to.
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise FetchFailed(f"{source.url}: {error.strerror}") from error
        with file:
            stat = os.fstat(file.fileno())
            if not S_ISREG(stat.st_mode):
                raise FetchFailed(f"{source.url}: is no regular file")
            version = Version(source.url, f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}")
            if part.version != version or part.size > stat.st_size:
                part.begin_anew(version)
            file.seek(part.size)
            self._copy(iter(lambda: file.read(CHUNK_BYTES), b""), part, stat.st_size, watch)

    def _allowed(self, url: str) -> Path:
        parts = urlsplit(url)
        path = Path(unquote(parts.path)).resolve()
        if parts.netloc not in {"", "localhost"} or not any(path.is_relative_to(one) for one in self._directories):
            raise FetchRefused(
                f"{url} is in no directory that this agent takes images from",
                hint="name it in [images] file_directories of the agent's configuration",
            )
        return path

    def _copy(self, chunks: Iterator[bytes], part: _Part, total: int, watch: Watch) -> None:
        self._check_size(max(total, part.size))
        watch.progress(part.size, total)
        asked = max(total, part.size)
        watch.room(asked)
        for chunk in chunks:
            part.add(chunk)
            if part.size > asked + ROOM_STEP_BYTES:  # nobody said how long it is
                asked = part.size
                watch.room(asked)
            self._check_size(part.size)
            watch.progress(part.size, total)
            _go_no_further(watch)
        if total and part.size != total:
            raise BrokenOff(f"the connection ended after {part.size} of {total} bytes")

    def _check_size(self, size: int) -> None:
        if size > self._largest_bytes:
            raise ImageTooLarge(f"the file has {size} bytes or more, and this host takes {self._largest_bytes}")


def _take_up(response: Response, url: str, part: _Part) -> int:
    """See what the answer means for what there is; returns the whole file's size, 0 when it is not known.

    RFC 9110: 206 goes on where it was asked to; 200 is the whole file, for the server has another version than If-Range
    names, or knows no ranges; 416: there is nothing beyond what we have.
    """
    version = Version(url, _mark(response))
    if response.status == 206:
        found = _RANGE.fullmatch(response.header("Content-Range"))
        same = not version.mark or version.mark == part.version.mark
        if found is None or int(found[1]) != part.size or not same:
            part.begin_anew(version)
            raise BrokenOff("the server went on with something else")
        part.resumed = True
        return int(found[2]) if found[2] != "*" else 0
    if response.status == 200:
        part.begin_anew(version)
        length = response.header("Content-Length")
        return int(length) if length.isdecimal() else 0
    if response.status == 416:
        part.begin_anew(version)
        raise BrokenOff("the server has less than was fetched before")
    if response.status >= 500 or response.status in _TRANSIENT:
        raise BrokenOff(f"the server answered {response.status} {response.reason}")
    raise FetchFailed(f"{url} answered {response.status} {response.reason}")


def _mark(response: Response) -> str:
    """What If-Range takes: a strong ETag, or a date of change. Without either nothing is resumed."""
    etag = response.header("ETag")
    return etag if etag and not etag.startswith("W/") else response.header("Last-Modified") if not etag else ""


def _go_no_further(watch: Watch) -> None:
    if watch.stopping():
        raise FetchStopped("the agent stops")
