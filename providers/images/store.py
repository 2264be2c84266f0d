"""The images of this host: each is fetched once, however many wait for it, and kept while there is room.

URL ─download.py─▶ <sha256>.part ─unpack.py─▶ .unpacked ─qemu_img.py─▶ .making ─shelf.py─▶ .base ◀─links─ machines
"""

import asyncio
import errno
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import structlog

from hostler.images import FETCH_LIMIT, Compression, ImageFormat, ImageState
from providers.contract import ProviderError
from providers.images.errors import FetchFailed, FetchStopped, ImageTooLarge, NoSpace
from providers.images.lru import to_drop
from providers.images.shelf import Shelf
from providers.images.unpack import unpack
from providers.images.values import ROOM_STEP_BYTES, BaseFile, ImageSource, ImageStatus

if TYPE_CHECKING:
    from providers.images.download import Downloader
    from providers.images.request import Requests

_AT_ONCE: Final = 2
_STALL_SECONDS: Final = 30.0
_PROGRESS_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 5.0
_LOOP_SECONDS: Final = 60.0
_FAILURES_KEPT: Final = 64
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_log = structlog.get_logger(__name__)


class Room(msgspec.Struct, frozen=True):
    """How much of this host's disk images may take."""

    quota_bytes: int
    largest_bytes: int  # of one: the file, what is unpacked of it, and its disk as a guest sees it
    directories: tuple[Path, ...] = ()  # where files of this host may be taken from
    ca_file: Path | None = None  # see Requests


class Finish(Protocol):
    """Makes an image that machines boot from of an unpacked one, which is gone then; returns its disk's size."""

    def __call__(
        self,
        unpacked: Path,
        image_format: ImageFormat,
        target: Path,
        /,
        *,
        largest_bytes: int,
        stopping: Callable[[], bool],
    ) -> int: ...


class _Fetch:
    """One image on its way: what its thread tells the event loop, and the other way round."""

    def __init__(self, store: "ImageStore", source: ImageSource) -> None:
        self.source = source
        self.done = self.total = 0
        self.coming = 0  # bytes that it will take
        self._store = store
        self._until = time.monotonic() + FETCH_LIMIT.total_seconds()
        self._told_at = 0.0

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        now = time.monotonic()
        if now - self._told_at >= _PROGRESS_SECONDS:
            self._told_at = now
            self._store.from_thread(self._store.told, self.source.sha256)

    def room(self, coming: int) -> None:
        self._store.room_from_thread(self, coming)

    def stopping(self) -> bool:
        if time.monotonic() > self._until:
            raise FetchFailed(f"{self.source.url}: not fetched within {FETCH_LIMIT}")
        return self._store.stop.is_set()

    def pause(self, seconds: float) -> None:
        self._store.stop.wait(seconds)

    @property
    def status(self) -> ImageStatus:
        return ImageStatus(self.source.sha256, ImageState.FETCHING, self.done, self.total)


class ImageStore:
    """`on_change` is told, on the event loop, of every change and now and then of progress."""

    def __init__(self, directory: Path, room: Room, finish: Finish, *, requests: "Requests | None" = None) -> None:
        self._shelf = Shelf(directory)
        self._room = room
        self._finish = finish
        self._requests = requests
        self._largest_bytes = min(room.largest_bytes, room.quota_bytes)
        self._downloader: Downloader | None = None  # until the first fetch
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="images")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tidying = asyncio.Lock()
        self._leases: Counter[str] = Counter()
        self._fetches: dict[str, _Fetch] = {}
        self._tasks: dict[str, asyncio.Task[BaseFile]] = {}
        self._settled: dict[str, ImageStatus] = {}  # of those that are here, and of those that could not be had
        self.on_change: Callable[[ImageStatus], None] = lambda _: None
        self.stop = threading.Event()

    async def open(self) -> None:
        """Find what an earlier process left.

        Raises:
            ProviderError: the directory cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        try:
            whole = await asyncio.to_thread(self._shelf.open)
        except OSError as error:
            raise ProviderError(f"{self._shelf.directory} cannot be used for images: {error}") from error
        for sha256 in whole:
            self._settled[sha256] = await self._have(sha256)
        await self._make_room()

    async def close(self) -> None:
        """Stop fetching; what was fetched is kept for the next process."""
        self.stop.set()
        if self._requests is not None:
            self._requests.cut()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_CLOSE_SECONDS)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def statuses(self) -> list[ImageStatus]:
        """Of every image that is here, on its way, or could not be had."""
        under_way = {sha256: fetch.status for sha256, fetch in self._fetches.items()}
        return [*(self._settled | under_way).values()]

    def prefetch(self, source: ImageSource) -> None:
        """See to it that the image is here; how it went is told by `on_change`."""
        if source.sha256 not in self._tasks:
            self._start(source)

    @asynccontextmanager
    async def lease(self, source: ImageSource, on_fetch: Callable[[], None]) -> AsyncIterator[BaseFile]:
        """The image, fetched if it is not here (`on_fetch` is told then), and kept for as long as it is held.

        Raises:
            FetchError: it cannot be had.
        """
        sha256 = source.sha256
        self._leases[sha256] += 1
        try:
            base = None if sha256 in self._tasks else await self._find(sha256)
            if base is None:
                on_fetch()
                # Who waits may give up; others, or the next, want it all the same.
                base = await asyncio.shield(self._tasks.get(sha256) or self._start(source))
            await asyncio.to_thread(self._shelf.touch, sha256)
            yield base
        finally:
            self._leases[sha256] -= 1
            if not self._leases[sha256]:
                del self._leases[sha256]

    # --- for the threads ---

    def from_thread(self, call: Callable[..., object], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    def told(self, sha256: str) -> None:
        fetch = self._fetches.get(sha256)
        if fetch is not None:
            self.on_change(fetch.status)

    def room_from_thread(self, fetch: _Fetch, coming: int) -> None:
        """
        Raises:
            NoSpace: images in use leave no room for it.
        """
        if self._loop is None:
            raise RuntimeError("the store is not open")
        fetch.coming = coming
        left = asyncio.run_coroutine_threadsafe(self._make_room(), self._loop).result(_LOOP_SECONDS)
        if left < 0:
            raise NoSpace(
                f"{coming} bytes do not fit beside the images in use within the quota of {self._room.quota_bytes}",
                hint="raise [images] quota_gib of the agent's configuration",
            )

    # --- fetching ---

    def _start(self, source: ImageSource) -> "asyncio.Task[BaseFile]":
        task = asyncio.create_task(self._ensure(source), name=f"image {source.name}")
        self._tasks[source.sha256] = task
        task.add_done_callback(lambda done: self._ended(source.sha256, done))
        return task

    def _ended(self, sha256: str, task: "asyncio.Task[BaseFile]") -> None:
        del self._tasks[sha256]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ProviderError):
            _log.error("fetching an image failed in a way that it should not", sha256=sha256, exc_info=error)

    async def _ensure(self, source: ImageSource) -> BaseFile:
        sha256 = source.sha256
        found = await self._find(sha256)
        if found is not None:
            self.on_change(self._settled[sha256])
            return found
        fetch = self._fetches[sha256] = _Fetch(self, source)
        self.on_change(fetch.status)
        _log.info("fetching image", image=source.name, url=source.url, sha256=sha256)
        status = ImageStatus(sha256, ImageState.FAILED, error_code=FetchFailed.code, detail="see the agent's log")
        try:
            self._downloader = self._downloader or self._first_downloader()
            base = await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, fetch, self._downloader)
            status = await self._have(sha256)
        except ProviderError as error:
            _log.warning("image not fetched", image=source.name, error=str(error))
            status = ImageStatus(sha256, ImageState.FAILED, error_code=error.code, detail=str(error))
            raise
        finally:
            self._fetches.pop(sha256, None)
            if not self.stop.is_set():
                self._settle(status)
        _log.info("image is here", image=source.name, bytes=status.bytes)
        return base

    def _settle(self, status: ImageStatus) -> None:
        self._settled.pop(status.sha256, None)
        self._settled[status.sha256] = status
        failed = [one for one, known in self._settled.items() if known.state is ImageState.FAILED]
        for forgotten in failed[:-_FAILURES_KEPT]:
            del self._settled[forgotten]
        self.on_change(status)

    def _first_downloader(self) -> "Downloader":
        # Only now: the standard library's client for HTTP would cost an agent 3 MiB that never fetches.
        from providers.images.download import Downloader  # noqa: PLC0415
        from providers.images.request import Requests  # noqa: PLC0415

        self._requests = self._requests or Requests(stall_seconds=_STALL_SECONDS, ca_file=self._room.ca_file)
        directories = tuple(one.resolve() for one in self._room.directories)
        return Downloader(self._requests, directories=directories, largest_bytes=self._largest_bytes)

    def _fetch(self, fetch: _Fetch, downloader: "Downloader") -> BaseFile:
        """In a thread of its own. What fails for want of room leaves nothing behind."""
        source, shelf = fetch.source, self._shelf
        part = shelf.part(source.sha256)
        try:
            downloader.fetch(source, part, fetch)
            base = self._make(fetch, part)
        except OSError as error:
            shelf.clear(source.sha256)
            kind = NoSpace if error.errno in _FULL else FetchFailed
            where = f"{error.filename}: " if error.filename else ""
            raise kind(f"{where}{error.strerror or error}", hint=f"see the space left at {shelf.directory}") from error
        except (FetchStopped, FetchFailed):
            shelf.clear_making(source.sha256)
            raise
        except ProviderError:
            shelf.clear(source.sha256)
            raise
        shelf.clear(source.sha256)
        return base

    def _make(self, fetch: _Fetch, part: Path) -> BaseFile:
        source, shelf = fetch.source, self._shelf
        unpacked, making = shelf.unpacked(source.sha256), shelf.making(source.sha256)
        largest = self._largest_bytes
        if source.compression is Compression.NONE:
            unpacked.unlink(missing_ok=True)
            unpacked.hardlink_to(part)  # a process that is killed now finds the part file again
            packed_bytes = 0
        else:
            packed_bytes = _taken(part)
            growing = _Growing(fetch, packed_bytes, unpacked)
            unpack(part, unpacked, source.compression, largest_bytes=largest, stopping=growing.stopping)
        finish = kept_as_it_is if source.format is ImageFormat.LXD else self._finish
        files = 1 if finish is kept_as_it_is else 2  # one is made of the other
        fetch.room(packed_bytes + files * _taken(unpacked))
        virtual = finish(unpacked, source.format, making, largest_bytes=largest, stopping=fetch.stopping)
        return shelf.put(
            source, making, ImageFormat.LXD if source.format is ImageFormat.LXD else ImageFormat.QCOW2, virtual
        )

    # --- what is here ---

    async def _find(self, sha256: str) -> BaseFile | None:
        """An image that is here and whole. Not while others are being dropped."""
        async with self._tidying:
            found = await asyncio.to_thread(self._shelf.get, sha256)
            known = self._settled.get(sha256)
            if found is None and known is not None and known.state is ImageState.HAVE:
                self._gone(sha256)
            elif found is not None and (known is None or known.state is not ImageState.HAVE):
                self._settled[sha256] = await self._have(sha256)
            return found

    async def _have(self, sha256: str) -> ImageStatus:
        size = await asyncio.to_thread(self._shelf.size, sha256)
        return ImageStatus(sha256, ImageState.HAVE, size, size)

    def _gone(self, sha256: str) -> None:
        self._settled.pop(sha256, None)
        self.on_change(ImageStatus(sha256, ImageState.GONE))

    async def _make_room(self) -> int:
        """Drop what the quota has no room for; returns how many bytes are left of it, negative when they are short."""
        async with self._tidying:
            coming = sum(fetch.coming for fetch in self._fetches.values())
            kept = [
                msgspec.structs.replace(one, in_use=one.in_use or one.name in self._leases)
                for one in await asyncio.to_thread(self._shelf.kept)
                if one.name not in self._fetches
            ]
            dropped = set(to_drop(kept, self._room.quota_bytes, coming))
            for sha256 in dropped:
                _log.info("dropping an image, to keep the quota", sha256=sha256)
                await asyncio.to_thread(self._shelf.drop, sha256)
                if sha256 in self._settled:
                    self._gone(sha256)
            return self._room.quota_bytes - coming - sum(one.bytes for one in kept if one.name not in dropped)


class _Growing:
    """Makes room for a file as it grows: what is packed does not say how much it will be."""

    def __init__(self, fetch: _Fetch, beside: int, file: Path) -> None:
        """`beside`: bytes that the fetch takes besides."""
        self._fetch = fetch
        self._beside = beside
        self._file = file
        self._asked = 0

    def stopping(self) -> bool:
        taken = _taken(self._file)
        if taken > self._asked + ROOM_STEP_BYTES:
            self._asked = taken
            self._fetch.room(self._beside + taken)
        return self._fetch.stopping()


def _taken(file: Path) -> int:
    """What it takes of the disk: holes take nothing."""
    return file.stat().st_blocks * 512


def kept_as_it_is(unpacked: Path, _: ImageFormat, target: Path, *, largest_bytes: int, **_more: object) -> int:
    """Finishes images for machines that never read them."""
    size = unpacked.stat().st_size
    if size > largest_bytes:
        raise ImageTooLarge(f"its disk has {size} bytes, and this host takes {largest_bytes}")
    unpacked.rename(target)
    return size
