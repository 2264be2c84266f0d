"""What machines leave on a host: looked at before and after, so that nothing can stay unnoticed."""

import subprocess
from pathlib import Path
from typing import Final

import libvirt
import msgspec

from providers.libvirt.settings import LibvirtSettings

URI: Final = "qemu:///system"


class Traces(msgspec.Struct, frozen=True):
    domains: frozenset[str]
    emulators: frozenset[str]  # command lines of running QEMUs
    interfaces: frozenset[str]
    rules: str  # the packet filter's, without counters
    files: frozenset[str]  # below the agent's instances

    def more_than(self, before: "Traces") -> list[str]:
        """What is here now and was not before, in words."""
        left = [f"domain {name}" for name in sorted(self.domains - before.domains)]
        left += [f"process {line}" for line in sorted(self.emulators - before.emulators)]
        left += [f"network interface {name}" for name in sorted(self.interfaces - before.interfaces)]
        left += [f"file {name}" for name in sorted(self.files - before.files)]
        if self.rules != before.rules:
            left.append("packet filter rules")
        return left


def look(instances: Path) -> Traces:
    conn = libvirt.open(URI)
    domains = frozenset(domain.name() for domain in conn.listAllDomains())
    conn.close()
    return Traces(
        domains=domains,
        emulators=frozenset(_emulators()),
        interfaces=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
        rules=rules(),
        files=frozenset(str(path) for path in instances.rglob("*")) if instances.exists() else frozenset(),
    )


def _emulators() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else []
        except OSError:
            continue  # it has just ended
        if words and b"qemu-system" in words[0]:
            found.append(f"{entry.name} {b' '.join(words[:4]).decode(errors='replace')}")
    return found


def rules() -> str:
    """The packet filter's, without counters; its tables by name, since one that is replaced comes last."""
    done = subprocess.run(["nft", "--stateless", "list", "ruleset"], capture_output=True, text=True, check=True)
    return "table ".join(sorted(done.stdout.split("table ")))


def settings(acceleration: str) -> LibvirtSettings:
    """A network of the demo's own, so that it is in nobody's way."""
    return LibvirtSettings(acceleration=acceleration, network="hostler-demo", subnet="10.217.77.0/24")  # type: ignore[arg-type]
