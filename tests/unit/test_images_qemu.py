"""Images made by and for QEMU: what is taken, what is refused, and that a killed agent goes on where it was."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.images import Compression, ImageFormat
from providers.images import qemu_img
from providers.images.errors import FetchStopped, ImageTooLarge, ImageUnusable
from providers.images.values import ImageSource
from tests.samples.image_fetcher import fetch
from tests.samples.image_server import ImageServer, content, serving

DISK = content()
_PATIENCE = 30


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with serving() as habits:
        yield habits


def _qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def _make(folder: Path, image_format: ImageFormat, largest: int = 1 << 30) -> int:
    return qemu_img.make_base(
        folder / "unpacked", image_format, folder / "base", largest_bytes=largest, stopping=lambda: False
    )


def test_a_raw_disk_becomes_qcow2(tmp_path: Path) -> None:
    (tmp_path / "unpacked").write_bytes(DISK)
    assert _make(tmp_path, ImageFormat.RAW) == 3_000_320, "in whole sectors"
    _qemu_img("convert", "-f", "qcow2", "-O", "raw", tmp_path / "base", tmp_path / "back")
    assert (tmp_path / "back").read_bytes()[: len(DISK)] == DISK
    assert not (tmp_path / "unpacked").exists()


def test_a_qcow2_disk_is_taken_as_it_is(tmp_path: Path) -> None:
    _qemu_img("create", "-f", "qcow2", tmp_path / "unpacked", "10G")
    before = (tmp_path / "unpacked").read_bytes()
    assert _make(tmp_path, ImageFormat.QCOW2, 10 << 30) == 10 << 30
    assert (tmp_path / "base").read_bytes() == before


def test_a_disk_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    _qemu_img("create", "-f", "qcow2", tmp_path / "unpacked", "10G")
    with pytest.raises(ImageTooLarge):
        _make(tmp_path, ImageFormat.QCOW2, (10 << 30) - 1)


@pytest.mark.parametrize(
    "options", [["-b", "/etc/hostname", "-F", "raw"], ["-o", "data_file={folder}/data,data_file_raw=on"]]
)
def test_an_image_that_reads_other_files_is_refused(options: list[str], tmp_path: Path) -> None:
    told = [one.format(folder=tmp_path) for one in options]
    _qemu_img("create", "-f", "qcow2", *told, tmp_path / "unpacked", "1M")
    with pytest.raises(ImageUnusable, match="it reads /"):
        _make(tmp_path, ImageFormat.QCOW2)


def test_what_is_no_image_of_its_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unpacked").write_bytes(DISK)
    with pytest.raises(ImageUnusable, match="it is no qcow2 image"):
        _make(tmp_path, ImageFormat.QCOW2)


def test_a_raw_disk_is_raw_whatever_its_first_bytes_say(tmp_path: Path) -> None:
    """Else a guest's own disk could name a file of the host as what it is based on."""
    _qemu_img("create", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", tmp_path / "unpacked", "1M")
    as_it_is = (tmp_path / "unpacked").read_bytes()
    _make(tmp_path, ImageFormat.RAW)
    _qemu_img("convert", "-f", "qcow2", "-O", "raw", tmp_path / "base", tmp_path / "back")
    assert (tmp_path / "back").read_bytes()[: len(as_it_is)] == as_it_is


def test_a_conversion_is_ended_when_the_agent_stops(tmp_path: Path) -> None:
    (tmp_path / "unpacked").write_bytes(DISK)
    with pytest.raises(FetchStopped):
        qemu_img.make_base(
            tmp_path / "unpacked", ImageFormat.RAW, tmp_path / "base", largest_bytes=1 << 30, stopping=lambda: True
        )


# --- processes ---


async def _start(folder: Path, source: ImageSource, most_bytes: int = 0) -> asyncio.subprocess.Process:
    arguments = [source.url, source.sha256, source.format, source.compression, str(most_bytes)]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.samples.image_fetcher", str(folder), *arguments, stdout=subprocess.PIPE
    )


def _names(folder: Path) -> set[str]:
    return {path.suffix for path in folder.iterdir()}


async def _answer(process: asyncio.subprocess.Process) -> str:
    out, _ = await asyncio.wait_for(process.communicate(), _PATIENCE)
    return out.decode()


async def test_an_agent_killed_while_it_downloads_goes_on_with_what_it_has(server: ImageServer, tmp_path: Path) -> None:
    source = server.offer(DISK)
    server.hold_after = 2_000_000
    process = await _start(tmp_path, source)
    await asyncio.to_thread(server.holding.wait, _PATIENCE)
    part = tmp_path / f"{source.sha256}.part"
    async with asyncio.timeout(_PATIENCE):
        while part.stat().st_size < 1_000_000:
            await asyncio.sleep(0.01)
    process.kill()
    assert await _answer(process) == ""
    assert _names(tmp_path) == {".part", ".json"}
    held = part.stat().st_size
    server.hold_after = None
    base = Path(await _answer(await _start(tmp_path, source)))
    assert isinstance(qemu_img.info(base, "qcow2"), qemu_img.Info)
    assert server.asked[1][1]["Range"] == f"bytes={held}-"


async def test_an_agent_killed_while_it_converts_needs_no_second_download(
    server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A qemu-img that writes half of what it should and then takes for ever."""
    source = server.offer(DISK, Compression.GZ)
    fake = tmp_path / "bin" / "qemu-img"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\n[ "$1" = convert ] || exec /usr/bin/qemu-img "$@"\nfor last; do :; done\n'
        f'echo half >"$last"; echo $$ >"{tmp_path}/converting"; exec sleep 60\n'
    )
    fake.chmod(0o755)
    images = tmp_path / "images"
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(fake.parent), prepend=":")
        process = await _start(images, source)
        async with asyncio.timeout(_PATIENCE):
            while not (tmp_path / "converting").exists() or not (tmp_path / "converting").read_text().strip():
                await asyncio.sleep(0.01)
        process.kill()
        await _end_what_it_had_started(process, tmp_path)
    assert _names(images) == {".part", ".json", ".unpacked", ".making"}
    base = Path(await _answer(await _start(images, source)))
    assert isinstance(qemu_img.info(base, "qcow2"), qemu_img.Info)
    assert len(server.asked) == 1
    assert _names(images) == {".base", ".json"}


async def _end_what_it_had_started(process: asyncio.subprocess.Process, folder: Path) -> None:
    os.kill(int((folder / "converting").read_text()), signal.SIGKILL)
    await asyncio.wait_for(process.wait(), _PATIENCE)


@pytest.mark.parametrize(
    ("compression", "most_bytes"),
    [(Compression.NONE, 1_000_000), (Compression.GZ, 2_500_000), (Compression.NONE, 3_000_100)],
)
async def test_a_full_disk_leaves_nothing_at_any_step(
    compression: Compression, most_bytes: int, server: ImageServer, tmp_path: Path
) -> None:
    """Too little for the download, for what is unpacked, for the qcow2 file."""
    disk = content()[: 2_999_999 if compression is Compression.NONE else None]
    source = server.offer(disk, compression)
    if most_bytes > 3_000_000:
        source = server.offer(b"x" * 3_000_000)
    assert await _answer(await _start(tmp_path, source, most_bytes)) == "image_fetch_no_space"
    assert not _names(tmp_path)


def test_a_qcow2_is_its_own_base(server: ImageServer, tmp_path: Path) -> None:
    _qemu_img("create", "-f", "qcow2", tmp_path / "made.qcow2", "1G")
    source = server.offer((tmp_path / "made.qcow2").read_bytes(), image_format=ImageFormat.QCOW2)
    base = Path(asyncio.run(fetch(tmp_path / "images", source)))
    assert hashlib.sha256(base.read_bytes()).hexdigest() == source.sha256
    assert base.stat().st_nlink == 1, "nothing else holds it"
