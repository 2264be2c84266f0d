"""The images for real jobs, built by their recipe and kept for as long as nothing that they are made of has changed."""

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from tests.demo.places import CACHE, ROOT

RECIPE: Final = ROOT / "packaging" / "images"
STAND_IN: Final = ROOT / "tests" / "forge_simulator" / "runner.sh"
WITH_UNIT: Final = ("runner-image", {"run.sh": STAND_IN.read_text()})
"""The image whose own unit starts the runner: the stand-in that takes jobs of the forge simulator."""

_BUILD_SECONDS: Final = 400


def runner_image(name: str, release: dict[str, str], *options: str) -> Path:
    """The image, not to be written to.

    Args:
        release: the program files of the runner that is unpacked in it, and their text.
        options: of `build-runner-image`, besides the runner's.
    """
    image, known = CACHE / f"{name}.qcow2", CACHE / f"{name}.qcow2.inputs"
    key = _key(release, options)
    if image.exists() and known.exists() and known.read_text() == key:
        return image
    CACHE.mkdir(parents=True, exist_ok=True)
    known.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tarball = _pack(Path(folder), release)
        checked = ["--runner-tarball", str(tarball), "--sha256", hashlib.sha256(tarball.read_bytes()).hexdigest()]
        build = [str(RECIPE / "build-runner-image"), "--without-build-tools", *options, *checked, str(image)]
        subprocess.run(build, check=True, timeout=_BUILD_SECONDS)
    known.write_text(key)
    return image


def _pack(folder: Path, release: dict[str, str]) -> Path:
    tarball = folder / "runner.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name, text in release.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
            archive.add(folder / name, f"./{name}")
    return tarball


def _key(release: dict[str, str], options: tuple[str, ...]) -> str:
    files = [RECIPE / "build-runner-image", *sorted(p for p in (RECIPE / "runner-image").rglob("*") if p.is_file())]
    parts = [repr((sorted(release.items()), options)).encode()]
    parts += [str(path.relative_to(RECIPE)).encode() + path.read_bytes() for path in files]
    return hashlib.sha256(b"".join(parts)).hexdigest()
