"""Where the demo keeps what: a cache that outlives it, and one folder per run."""

import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from providers.contract import Arch

CACHE: Final = Path(os.environ.get("HOSTLER_CACHE", "/var/cache/hostler"))
ROOT: Final = Path(__file__).resolve().parent.parent.parent


class Guest(msgspec.Struct, frozen=True):
    """An image, and the size of the machines that boot it."""

    image: str
    path: Path  # of its file, where the agent's configuration names it
    vcpus: int = 1
    memory_mib: int = 256
    disk_gib: int = 1
    driver: str = "libvirt"
    arch: Arch = Arch.AMD64


TEST_GUEST: Final = Guest("test-guest", CACHE / "test-guest.qcow2")
CLOUD_GUEST: Final = Guest("cloud-guest", CACHE / "cloud-guest.qcow2", driver="cloud")
"""For pools of the demo's cloud, whose provider finds it by its name: a test guest that runs user data."""


class Places(msgspec.Struct, frozen=True):
    folder: Path

    @property
    def agent_data(self) -> Path:
        return self.folder / "agent"

    @property
    def machines(self) -> Path:
        """Those of the cloud; of hosts they are among the agent's data."""
        return self.folder / "machines"

    @property
    def cloud_config(self) -> Path:
        return self.folder / "cloud.toml"

    @property
    def coordinator_config(self) -> Path:
        return self.folder / "coordinator.toml"

    @property
    def agent_config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def fleet(self) -> Path:
        return self.folder / "fleet.toml"

    @property
    def forge_state(self) -> Path:
        return self.folder / "forge.json"

    def log(self, part: str) -> Path:
        return self.folder / f"{part}.log"

    def remember(self, part: str, pid: int) -> None:
        """So that who comes later can end the parts."""
        (self.folder / f"{part}.pid").write_text(f"{pid}\n")

    def remembered(self) -> list[int]:
        return [int(path.read_text()) for path in sorted(self.folder.glob("*.pid"))]


def new_places() -> Places:
    """A fresh folder that QEMU's own user gets through and nobody else can list; its secrets are closed themselves."""
    folder = Path(tempfile.mkdtemp(prefix="hostler-demo-", dir="/var/tmp"))
    folder.chmod(0o711)
    return Places(folder)


def kvm_proof() -> Path:
    return CACHE / "kvm-proof.json"
