"""Unpacking: every wrapping, in several members, with holes; what is broken, cut or a bomb gives no image."""

import subprocess
from pathlib import Path

import pytest

from hostler.images import Compression
from providers.images.errors import FetchStopped, ImageTooLarge, ImageUnusable
from providers.images.unpack import unpack
from tests.samples.image_server import PACK, content

PACKED = [Compression.GZ, Compression.XZ, Compression.ZSTD]
DISK = content(3_000_000)


def _unpack(folder: Path, packed: bytes, compression: Compression, largest: int = 10_000_000) -> Path:
    (folder / "packed").write_bytes(packed)
    unpack(folder / "packed", folder / "disk", compression, largest_bytes=largest, stopping=lambda: False)
    return folder / "disk"


@pytest.mark.parametrize("compression", PACKED)
def test_what_was_packed_comes_out_with_holes(compression: Compression, tmp_path: Path) -> None:
    disk = _unpack(tmp_path, PACK[compression](DISK), compression)
    assert disk.read_bytes() == DISK
    assert disk.stat().st_blocks * 512 < 2_500_000, "a third of it is zeros"


@pytest.mark.parametrize("compression", PACKED)
def test_several_members_are_one_file_and_its_end_may_be_zeros(compression: Compression, tmp_path: Path) -> None:
    pack = PACK[compression]
    middle, end = DISK[:1_000_001], DISK[1_000_001:] + bytes(1_500_000)
    packed = pack(middle) + pack(b"") + pack(end)
    assert _unpack(tmp_path, packed, compression).read_bytes() == DISK + bytes(1_500_000)


@pytest.mark.parametrize("tool", ["gzip", "xz", "zstd"])
def test_what_the_usual_tools_write_is_read(tool: str, tmp_path: Path) -> None:
    packed = subprocess.run([tool, "-c"], input=DISK, capture_output=True, check=True).stdout
    compression = {"gzip": Compression.GZ, "xz": Compression.XZ, "zstd": Compression.ZSTD}[tool]
    assert _unpack(tmp_path, packed, compression).read_bytes() == DISK


@pytest.mark.parametrize("compression", PACKED)
def test_a_lost_end_is_noticed(compression: Compression, tmp_path: Path) -> None:
    packed = PACK[compression](DISK)
    for cut in (0, 1, 10, len(packed) // 2, len(packed) - 1):
        with pytest.raises(ImageUnusable, match=f"cannot be unpacked as {compression}"):
            _unpack(tmp_path, packed[:cut], compression)


@pytest.mark.parametrize("compression", PACKED)
def test_garbage_is_noticed_also_behind_the_end(compression: Compression, tmp_path: Path) -> None:
    for packed in (DISK, PACK[compression](DISK) + b"garbage" * 100):
        with pytest.raises(ImageUnusable):
            _unpack(tmp_path, packed, compression)


@pytest.mark.parametrize("compression", PACKED)
def test_a_bomb_is_left_off_at_the_limit(compression: Compression, tmp_path: Path) -> None:
    bomb = PACK[compression](bytes(50_000_000))
    with pytest.raises(ImageTooLarge):
        _unpack(tmp_path, bomb, compression, largest=4_000_000)


def test_it_stops_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(PACK[Compression.GZ](DISK))
    with pytest.raises(FetchStopped):
        unpack(tmp_path / "packed", tmp_path / "disk", Compression.GZ, largest_bytes=10_000_000, stopping=lambda: True)
