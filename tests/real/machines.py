"""Machines of a farm as the operating system and libvirt show them, without any of the farm's own means."""

from contextlib import suppress
from pathlib import Path

import libvirt

from tests.real.conftest import URI


def emulators(instances: Path) -> dict[int, str]:
    """QEMUs whose files are below that folder: process id and command line."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text()
        except OSError:
            continue  # it has just ended
        if words.startswith("/usr/bin/qemu-system") and str(instances) in words:
            found[int(process.name)] = words
    return found


def domains() -> list[str]:
    conn = libvirt.open(URI)
    names = [domain.name() for domain in conn.listAllDomains()]
    conn.close()
    return names


def destroy(instances: Path) -> None:
    """What a failed test left must not fail the next ones."""
    conn = libvirt.open(URI)
    for domain in conn.listAllDomains():
        with suppress(libvirt.libvirtError):  # it has just ended
            if str(instances) in domain.XMLDesc():
                domain.destroy()
    conn.close()
