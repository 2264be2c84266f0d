"""The QEMU that the build server runs on, unpacked beside the machine's own."""

import re
import tempfile
from pathlib import Path
from typing import Final

from tests.demo.places import CACHE
from tests.real.server_image import fresh, run

_RELEASE: Final = "bookworm"  # whose backports have QEMU 10


def newest_qemu() -> list[str]:
    """The command of a QEMU of Debian's backports that lies, with its libraries, beside the machine's own."""
    folder = CACHE / "qemu-10"
    with fresh(folder, repr((_RELEASE, _mirror()))) as work:
        if work is not None:
            _unpack_qemu(work)
    libraries = [folder / parent / "x86_64-linux-gnu" for parent in ("lib", "usr/lib")]
    loader = [libraries[0] / "ld-linux-x86-64.so.2", "--library-path", ":".join(map(str, libraries))]
    command = [*loader, folder / "usr" / "bin" / "qemu-system-x86_64"]
    for data in ("qemu", "seabios"):
        command += ["-L", folder / "usr" / "share" / data]
    return ["env", f"QEMU_MODULE_DIR={libraries[1] / 'qemu'}", *map(str, command)]


def _unpack_qemu(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        preferences = Path(scratch, "pins")
        preferences.write_text(
            f"Package: qemu-system-* seabios\nPin: release n={_RELEASE}-backports\nPin-Priority: 600\n"
        )
        run(
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--include=qemu-system-x86"),
            *('--aptopt=APT::Install-Recommends "false"', f"--setup-hook=cp {preferences} $1/etc/apt/preferences.d/"),
            *(_RELEASE, str(folder)),
            *(f"deb {_mirror()} {suite} main" for suite in (_RELEASE, f"{_RELEASE}-backports")),
        )


def _mirror() -> str:
    """Where this machine has its own packages from."""
    for file in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        for line in file.read_text().splitlines() if file.exists() else ():
            found = re.match(r"(?:URIs:|deb(?: \[[^]]*])?)\s+(\S+/debian/?)(?:\s|$)", line)
            if found:
                return found[1]
    raise AssertionError("no line of /etc/apt/sources.list* names a mirror of Debian")
