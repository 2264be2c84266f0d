"""Overlays: the first of a kind is qemu-img's, the others are copies of it."""

import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from providers.contract import ProviderError
from providers.images import qemu_img
from providers.libvirt.disk import Base, Overlays

_GIB = 1 << 30


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What qemu-img was asked for."""
    asked: list[tuple[str, ...]] = []
    run: Callable[..., subprocess.CompletedProcess[bytes]] = qemu_img.run

    def noted(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        asked.append(arguments)
        return run(*arguments)

    monkeypatch.setattr(qemu_img, "run", noted)
    return asked


def image(path: Path, image_format: str = "qcow2") -> Base:
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, str(path), "64M"], check=True)
    return Base(str(path), image_format, 64 << 20)


def test_overlays_of_one_kind_are_the_same_as_qemu_img_makes_them(tmp_path: Path, made: list[tuple[str, ...]]) -> None:
    base, overlays = image(tmp_path / "image"), Overlays()
    first, second, by_itself = tmp_path / "first", tmp_path / "second", tmp_path / "by-itself"
    overlays.create(base, first, 3)
    overlays.create(base, second, 3)
    Overlays().create(base, by_itself, 3)

    assert len(made) == 2  # by the two that had made none before
    assert first.read_bytes() == second.read_bytes() == by_itself.read_bytes()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (first, second)] == [0o600, 0o600]
    assert second.stat().st_blocks <= first.stat().st_blocks


def test_a_copy_is_a_sound_disk_on_its_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    base, overlays = image(tmp_path / "images" / "raw", "raw"), Overlays()
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 7 0 4k", base.filename], check=True, capture_output=True)
    for name in ("first", "copy"):
        overlays.create(base, tmp_path / name, 2)
    copy = tmp_path / "copy"
    found = qemu_img.info(copy)
    assert isinstance(found, qemu_img.Info)
    assert (found.size, found.backing) == (2 * _GIB, base.filename)
    subprocess.run(["qemu-img", "check", "-q", copy], check=True)
    read = subprocess.run(["qemu-io", "-c", "read -P 7 0 4k", copy], check=True, capture_output=True, text=True)
    assert "verification failed" not in read.stdout


def test_machines_that_hold_one_image_by_links_of_their_own_share_a_kind(
    tmp_path: Path, made: list[tuple[str, ...]]
) -> None:
    base, overlays = image(tmp_path / "image"), Overlays()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        link = tmp_path / name / "base.qcow2"
        link.hardlink_to(base.filename)
        overlays.create(Base(str(link), "qcow2", base.size), tmp_path / name / "disk.qcow2", 1)
    assert len(made) == 1
    subprocess.run(["qemu-img", "check", "-q", tmp_path / "two" / "disk.qcow2"], check=True)


def test_another_size_format_or_image_is_another_kind(tmp_path: Path, made: list[tuple[str, ...]]) -> None:
    one, other, raw = image(tmp_path / "one"), image(tmp_path / "other"), image(tmp_path / "raw", "raw")
    overlays = Overlays()
    kinds = [(one, 1), (one, 2), (other, 1), (raw, 1)]
    for number, (base, gib) in enumerate([*kinds, *kinds]):
        overlays.create(base, tmp_path / str(number), gib)
    assert len(made) == len(kinds)


def test_kinds_are_forgotten_that_were_not_used_for_long(tmp_path: Path, made: list[tuple[str, ...]]) -> None:
    base, overlays = image(tmp_path / "image"), Overlays()
    sizes = [1, *range(2, 17), 1, 17]  # 17 kinds, one too many
    for number, gib in enumerate([*sizes, 1, 2]):
        overlays.create(base, tmp_path / str(number), gib)
    assert [asked[-1] for asked in made[-2:]] == [str(17 * _GIB), str(2 * _GIB)]


def test_ten_at_once_are_made_by_one_qemu_img(tmp_path: Path, made: list[tuple[str, ...]]) -> None:
    base, overlays = image(tmp_path / "image"), Overlays()
    with ThreadPoolExecutor(10) as threads:
        list(threads.map(lambda number: overlays.create(base, tmp_path / str(number), 1), range(10)))
    assert len(made) == 1
    assert len({(tmp_path / str(number)).read_bytes() for number in range(10)}) == 1


def test_a_failure_is_told_and_not_remembered(tmp_path: Path) -> None:
    base, overlays = image(tmp_path / "image"), Overlays()
    away = Path(base.filename).rename(tmp_path / "away")
    with pytest.raises(ProviderError, match="the disk cannot be made"):
        overlays.create(base, tmp_path / "disk", 1)
    away.rename(base.filename)
    overlays.create(base, tmp_path / "disk", 1)
