"""The images of a host, from a real server with bad habits: only what is whole and proven is ever handed out."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hostler.images import Compression, ImageFormat, ImageState
from providers.contract import ProviderError
from providers.images import download, qemu_img
from providers.images import store as images_store
from providers.images.errors import (
    ChecksumWrong,
    FetchError,
    FetchFailed,
    FetchRefused,
    ImageTooLarge,
    ImageUnusable,
    NoSpace,
)
from providers.images.request import Requests
from providers.images.store import ImageStore, Room, kept_as_it_is
from providers.images.values import BaseFile, ImageSource, ImageStatus
from tests.samples.image_server import ImageServer, content, serving

DISK = content()
MB = 1_000_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)
    with serving() as habits:
        yield habits


@asynccontextmanager
async def opened(directory: Path, **room: Any) -> AsyncIterator[ImageStore]:
    limits: dict[str, Any] = {"quota_bytes": 100 * MB, "largest_bytes": 50 * MB} | room
    store = ImageStore(directory / "images", Room(**limits), kept_as_it_is, requests=Requests(stall_seconds=0.5))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def have(store: ImageStore, source: ImageSource) -> BaseFile:
    async with store.lease(source, lambda: None) as base:
        return base


async def fails(store: ImageStore, source: ImageSource, kind: type[FetchError], match: str = ".") -> None:
    """The fetch fails in that way, and nothing can be booted."""
    with pytest.raises(kind, match=match):
        await have(store, source)
    status = next(one for one in store.statuses() if one.sha256 == source.sha256)
    assert (status.state, status.error_code) == (ImageState.FAILED, kind.code)
    assert not list(store._shelf.directory.glob("*.base"))


def names(directory: Path) -> list[str]:
    return sorted(path.name.partition(".")[2] for path in (directory / "images").iterdir())


def states(store: ImageStore) -> dict[str, ImageState]:
    return {one.sha256: one.state for one in store.statuses()}


# --- what arrives ---


@pytest.mark.parametrize("compression", list(Compression))
async def test_an_image_is_fetched_unpacked_and_kept(
    compression: Compression, server: ImageServer, tmp_path: Path
) -> None:
    source = server.offer(DISK, compression)
    seen: list[ImageStatus] = []
    async with opened(tmp_path) as store:
        store.on_change = seen.append
        base = await have(store, source)
        assert base.path.read_bytes() == DISK
        assert base.virtual_bytes == len(DISK)
        await have(store, source)
    assert len(server.asked) == 1, "the second time it was here"
    assert names(tmp_path) == ["base", "base.json"], "nothing else is left"
    assert [one.state for one in seen][0 :: len(seen) - 1] == [ImageState.FETCHING, ImageState.HAVE]
    async with opened(tmp_path) as store:
        assert states(store) == {source.sha256: ImageState.HAVE}
        await have(store, source)
    assert len(server.asked) == 1, "an agent that starts anew knows it"


async def test_a_tarball_of_lxds_is_kept_as_it_is(server: ImageServer, tmp_path: Path) -> None:
    """No disk is made of it, and its digest stays the one that LXD knows it by."""
    source = server.offer(DISK, Compression.NONE, ImageFormat.LXD)
    room = Room(quota_bytes=100 * MB, largest_bytes=50 * MB)
    store = ImageStore(tmp_path / "images", room, qemu_img.make_base, requests=Requests(stall_seconds=0.5))
    await store.open()
    base = await have(store, source)
    await store.close()
    assert (base.format, base.virtual_bytes) == (ImageFormat.LXD, len(DISK))
    assert hashlib.sha256(base.path.read_bytes()).hexdigest() == source.sha256


async def test_creates_that_come_together_share_one_fetch(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    told: list[int] = []
    async with opened(tmp_path) as store:

        async def create(number: int) -> bytes:
            async with store.lease(source, lambda: told.append(number)) as base:
                return await asyncio.to_thread(base.path.read_bytes)

        store.prefetch(source)
        assert await asyncio.gather(*map(create, range(10))) == [DISK] * 10
    assert len(server.asked) == 1
    assert sorted(told) == list(range(10)), "each was told that it waits for a fetch"


async def test_who_waits_may_give_up_and_the_fetch_goes_on(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.hold_after = 1000
    async with opened(tmp_path) as store:
        waiting = asyncio.create_task(have(store, source))
        await asyncio.to_thread(server.holding.wait, 10)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert states(store) == {source.sha256: ImageState.FETCHING}
        server.hold.set()
        assert (await have(store, source)).path.read_bytes() == DISK
    assert len(server.asked) == 1


async def test_no_credentials_are_sent_and_none_are_taken(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    async with opened(tmp_path) as store:
        with_user = msgspec.structs.replace(source, url=source.url.replace("http://", "http://user:hush@"))
        await fails(store, with_user, FetchRefused, "the address holds a user")
        await have(store, source)
    assert set(server.asked[0][1]) == {"Host", "User-Agent", "Accept", "Accept-Encoding"}


# --- connections that break ---


async def test_a_cut_download_goes_on_where_it_was(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.cut_after = [1_000_000, 500_000]
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    assert [asked.get("Range") for _, asked in server.asked] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.asked[1][1]["If-Range"] == '"v1"'


async def test_without_ranges_it_begins_anew(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.ranges = False
    server.cut_after = [1_000_000, 2_000_000]
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    assert len(server.asked) == 3


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
async def test_without_a_mark_of_its_version_nothing_is_resumed(
    etag: str | None, server: ImageServer, tmp_path: Path
) -> None:
    source = server.offer(DISK)
    server.etag = etag
    server.cut_after = [1_000_000]
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    assert [asked.get("Range") for _, asked in server.asked] == [None, None]


async def test_a_server_that_always_cuts_is_given_up(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.ranges, server.cut_forever_at = False, 1_000_000
    async with opened(tmp_path) as store:
        await fails(store, source, FetchFailed, "ended after 1000000 of 3000000 bytes, 5 times in a row")


async def test_what_was_fetched_is_kept_for_the_next_try(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.cut_after = [1_000_000, 0, 0, 0, 0]
    async with opened(tmp_path) as store:
        await fails(store, source, FetchFailed)
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    assert server.asked[-1][1]["Range"] == "bytes=1000000-"


async def test_a_file_that_changes_midway_is_not_mixed(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    right, server.files["/image"], server.etag = server.files["/image"], content(seed=2), '"old"'
    server.cut_after = [1_000_000]

    def changes() -> None:
        if len(server.asked) == 2:
            server.files["/image"], server.etag = right, '"new"'

    server.on_answer = changes
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    assert server.asked[1][1]["If-Range"] == '"old"'


async def test_a_server_that_lies_about_its_version_is_found_out(server: ImageServer, tmp_path: Path) -> None:
    """It goes on with another file under the same mark: the digest tells, and it is begun anew once."""
    source = server.offer(DISK)
    right, server.files["/image"] = server.files["/image"], content(seed=2)
    server.cut_after = [1_000_000]

    def changes() -> None:
        if len(server.asked) == 2:
            server.files["/image"] = right

    server.on_answer = changes
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    assert [asked.get("Range") for _, asked in server.asked] == [None, "bytes=1000000-", None]


async def test_without_a_length_the_digest_tells_whether_it_is_whole(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.lengths = False
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    other = server.offer(DISK[1:], path="/other")
    server.cut_after = [1_000_000]
    async with opened(tmp_path / "second") as store:
        await fails(store, other, ChecksumWrong)


async def test_a_server_that_says_nothing_more_is_left(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.hold_after = 1000
    async with opened(tmp_path) as store:
        waiting = asyncio.create_task(have(store, source))
        await asyncio.to_thread(server.holding.wait, 10)
        server.hold_after = None
        assert (await waiting).path.read_bytes() == DISK
    assert server.asked[1][1]["Range"] == "bytes=1000-"


async def test_a_busy_server_is_asked_again_and_one_without_the_file_is_not(
    server: ImageServer, tmp_path: Path
) -> None:
    source = server.offer(DISK)
    server.statuses = [503, 429, 500]
    async with opened(tmp_path) as store:
        await have(store, source)
    assert len(server.asked) == 4
    async with opened(tmp_path / "second") as store:
        missing = msgspec.structs.replace(source, url=server.url("/nowhere"))
        await fails(store, missing, FetchFailed, "/nowhere answered 404 Not Found")
    assert len(server.asked) == 5


async def test_nobody_there_is_told_with_the_reason(server: ImageServer, tmp_path: Path) -> None:
    source = msgspec.structs.replace(server.offer(DISK), url="http://127.0.0.1:1/image")
    async with opened(tmp_path) as store:
        await fails(store, source, FetchFailed, "Connection refused")


# --- where it leads ---


async def test_redirects_are_followed_but_not_for_ever(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.redirects = {"/a": "/b", "/b": server.url("/image"), "/loop": "/loop"}
    async with opened(tmp_path) as store:
        await have(store, msgspec.structs.replace(source, url=server.url("/a")))
    async with opened(tmp_path / "second") as store:
        loop = msgspec.structs.replace(source, url=server.url("/loop"))
        await fails(store, loop, FetchFailed, "more than 5 redirects")


async def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(server: ImageServer, tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "allowed" / "pipe.raw")
    source = msgspec.structs.replace(server.offer(DISK), url=f"file://{tmp_path}/allowed/pipe.raw")
    async with opened(tmp_path, directories=(tmp_path / "allowed",)) as store, asyncio.timeout(20):
        await fails(store, source, FetchFailed, "no regular file")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://u:p@127.0.0.1/x", "http://127.0.0.1:0/x"]
)
async def test_a_redirect_out_of_the_web_is_refused(target: str, server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.redirects = {"/a": target}
    async with opened(tmp_path, directories=(Path("/etc"),)) as store:
        await fails(store, msgspec.structs.replace(source, url=server.url("/a")), FetchRefused)


# --- files of this host ---


async def test_a_file_of_an_allowed_directory_is_taken(server: ImageServer, tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "image with blank.raw").write_bytes(DISK)
    source = msgspec.structs.replace(server.offer(DISK), url=f"file://{tmp_path}/allowed/image%20with%20blank.raw")
    async with opened(tmp_path, directories=(tmp_path / "allowed",)) as store:
        base = await have(store, source)
        assert base.path.read_bytes() == DISK
    assert (tmp_path / "allowed" / "image with blank.raw").exists()


@pytest.mark.parametrize("path", ["secret", "allowed/../secret", "allowed/link", "allowed2/x", "allowed/missing"])
async def test_no_other_file_is_taken(path: str, server: ImageServer, tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed2").mkdir()
    for name in ("secret", "allowed2/x"):
        (tmp_path / name).write_bytes(DISK)
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
    source = msgspec.structs.replace(server.offer(DISK), url=f"file://{tmp_path}/{path}")
    async with opened(tmp_path, directories=(tmp_path / "allowed",)) as store:
        await fails(store, source, FetchFailed if "missing" in path else FetchRefused)


# --- what is not what it should be ---


async def test_wrong_bytes_are_never_handed_out(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.files["/image"] = content(seed=2)
    async with opened(tmp_path) as store:
        await fails(store, source, ChecksumWrong, hashlib.sha256(content(seed=2)).hexdigest())
        assert names(tmp_path) == [], "nothing is left"
        server.files["/image"] = DISK
        assert (await have(store, source)).path.read_bytes() == DISK, "once it is put right it is had"


async def test_a_file_that_is_not_packed_as_stated_is_refused(server: ImageServer, tmp_path: Path) -> None:
    source = msgspec.structs.replace(server.offer(DISK), compression=Compression.XZ)
    async with opened(tmp_path) as store:
        await fails(store, source, ImageUnusable, "cannot be unpacked as xz")
    assert names(tmp_path) == []


async def test_the_part_of_a_killed_agent_is_proven_like_any_other(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    (tmp_path / "images").mkdir()
    part = tmp_path / "images" / f"{source.sha256}.part"
    about = part.with_suffix(".part.json")
    about.write_bytes(msgspec.json.encode(download.Version(source.url, '"v1"')))
    part.write_bytes(b"garbage")
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    assert [asked.get("Range") for _, asked in server.asked] == ["bytes=7-", None]


async def test_a_whole_part_needs_no_server(server: ImageServer, tmp_path: Path) -> None:
    """As after a kill in the middle of unpacking."""
    source = server.offer(DISK, Compression.GZ)
    (tmp_path / "images").mkdir()
    part = tmp_path / "images" / f"{source.sha256}.part"
    part.with_suffix(".part.json").write_bytes(msgspec.json.encode(download.Version(source.url, '"v1"')))
    part.write_bytes(server.files["/image"])
    part.with_suffix(".unpacked").write_bytes(b"half")
    async with opened(tmp_path) as store:
        assert (await have(store, source)).path.read_bytes() == DISK
    assert server.asked == []


async def test_a_truncated_base_is_fetched_anew(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    seen: list[ImageStatus] = []
    async with opened(tmp_path) as store:
        base = await have(store, source)
        base.path.chmod(0o644)
        os.truncate(base.path, 1000)
        store.on_change = seen.append
        assert (await have(store, source)).path.read_bytes() == DISK
    assert seen[0] == ImageStatus(source.sha256, ImageState.GONE)
    assert len(server.asked) == 2


async def test_a_base_that_was_written_to_is_found_at_the_start(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    async with opened(tmp_path) as store:
        base = await have(store, source)
    base.path.chmod(0o644)
    with base.path.open("r+b") as file:
        file.write(b"x")
    async with opened(tmp_path) as store:
        assert store.statuses() == []
        assert (await have(store, source)).path.read_bytes() == DISK


async def test_a_base_that_was_only_touched_is_read_and_kept(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    async with opened(tmp_path) as store:
        base = await have(store, source)
    os.utime(base.path)
    async with opened(tmp_path) as store:
        assert states(store) == {source.sha256: ImageState.HAVE}
    assert len(server.asked) == 1


# --- room ---


async def test_what_is_too_large_is_not_fetched(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    for lengths in (True, False):
        server.lengths = lengths
        async with opened(tmp_path, largest_bytes=2 * MB) as store:
            await fails(store, source, ImageTooLarge)
        assert names(tmp_path) == []


async def test_a_bomb_is_not_unpacked(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(bytes(60 * MB), Compression.ZSTD)
    async with opened(tmp_path) as store:
        await fails(store, source, ImageTooLarge)
    assert names(tmp_path) == []


async def test_the_least_recently_used_goes_when_room_is_needed(server: ImageServer, tmp_path: Path) -> None:
    sources = [server.offer(content(seed=n), path=f"/{n}") for n in range(4)]
    async with opened(tmp_path, quota_bytes=7 * MB) as store:
        for source in sources[:3]:
            await have(store, source)
            await have(store, sources[0])
            await asyncio.sleep(0.01)  # the file system's clock goes on
        assert states(store) == dict.fromkeys([sources[0].sha256, sources[2].sha256], ImageState.HAVE)
        async with store.lease(sources[0], lambda: None), store.lease(sources[2], lambda: None):
            with pytest.raises(NoSpace, match="do not fit beside the images in use"):
                await have(store, sources[3])
        await have(store, sources[3])
        assert sources[3].sha256 in states(store)


async def test_an_image_that_a_machine_uses_stays_also_after_a_restart(server: ImageServer, tmp_path: Path) -> None:
    sources = [server.offer(content(seed=n), path=f"/{n}") for n in range(3)]
    machine = tmp_path / "machine"
    async with opened(tmp_path, quota_bytes=7 * MB) as store:
        machine.hardlink_to((await have(store, sources[0])).path)
    async with opened(tmp_path, quota_bytes=7 * MB) as store:
        await have(store, sources[1])
        await have(store, sources[2])
        assert sources[0].sha256 in states(store), "the oldest, but in use"
        assert sources[1].sha256 not in states(store)
        machine.unlink()
        await have(store, sources[1])
        assert sources[0].sha256 not in states(store)


async def test_all_that_a_fetch_takes_beside_counts_while_it_is_under_way(
    server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packed file and what comes out of it are there together, and a third file where one is made of another."""
    monkeypatch.setattr(images_store, "ROOM_STEP_BYTES", 100_000)
    asked: list[int] = []

    def noted(_: ImageStore, _fetch: object, coming: int) -> None:
        asked.append(coming)

    packed = server.offer(DISK, Compression.GZ)
    size = len(server.files["/image"])
    room = Room(quota_bytes=100 * MB, largest_bytes=50 * MB)
    store = ImageStore(tmp_path / "images", room, qemu_img.make_base, requests=Requests(stall_seconds=0.5))
    monkeypatch.setattr(ImageStore, "room_from_thread", noted)
    await store.open()
    await have(store, packed)
    await store.close()
    assert asked[0] == size
    assert asked == sorted(asked)
    assert len(asked) >= 3  # before it came, as it grew, and before another file is made of it
    assert asked[-1] >= size + 2 * 2 * MB  # the rest of the disk is holes


async def test_what_grows_beyond_the_quota_is_given_up(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK, Compression.GZ)
    async with opened(tmp_path, quota_bytes=len(server.files["/image"]) + len(DISK) // 2) as store:
        await fails(store, source, NoSpace, "raise .images. quota_gib")
        assert names(tmp_path) == []


async def test_a_smaller_quota_holds_from_the_next_start(server: ImageServer, tmp_path: Path) -> None:
    sources = [server.offer(content(seed=n), path=f"/{n}") for n in range(3)]
    async with opened(tmp_path) as store:
        for source in sources:
            await have(store, source)
            await asyncio.sleep(0.01)
    async with opened(tmp_path, quota_bytes=4 * MB) as store:
        assert states(store) == {sources[2].sha256: ImageState.HAVE}


async def test_an_old_download_that_nobody_goes_on_with_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, age in (("a", 3600), ("b", 8 * 86400)):
        part = tmp_path / "images" / f"{name * 64}.part"
        part.write_bytes(b"x")
        os.utime(part, (time.time() - age,) * 2)
    async with opened(tmp_path):
        assert [path.name[0] for path in (tmp_path / "images").iterdir()] == ["a"]


async def test_a_file_system_that_is_full_leaves_nothing(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)

    class Full(download.Downloader):
        def fetch(self, source: ImageSource, path: Path, watch: download.Watch) -> None:
            path.write_bytes(b"so far")
            raise OSError(28, "No space left on device", str(path))

    async with opened(tmp_path) as store:
        store._downloader = Full(Requests(stall_seconds=1), largest_bytes=1)
        await fails(store, source, NoSpace, "No space left on device")
    assert names(tmp_path) == []


async def test_a_directory_that_cannot_be_used_is_told_at_the_start() -> None:
    with pytest.raises(ProviderError, match="cannot be used for images"):
        await ImageStore(Path("/proc/images"), Room(1, 1), kept_as_it_is).open()


async def test_closing_ends_a_fetch_at_once_and_keeps_what_it_has(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.hold_after = 1_000_000
    seen: list[ImageStatus] = []
    async with opened(tmp_path) as store:
        store._requests = Requests(stall_seconds=600)
        store.prefetch(source)
        await asyncio.to_thread(server.holding.wait, 10)
        store.on_change = seen.append
    assert ImageState.FAILED not in {one.state for one in seen}
    server.hold_after = None
    async with opened(tmp_path) as store:
        await have(store, source)
    assert server.asked[1][1]["Range"].startswith("bytes=")


async def test_raw_is_the_format_of_what_is_kept_as_it_is(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK, image_format=ImageFormat.RAW)
    async with opened(tmp_path) as store:
        base = await have(store, source)
    assert base.path.stat().st_mode & 0o777 == 0o444, "nobody writes to it by mistake"
