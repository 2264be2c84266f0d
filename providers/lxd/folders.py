"""A directory for each virtual machine, for what LXD does not keep.

<root>/<instance id>/  seed.img     what the guest is told, with its secret; LXD attaches it by its path
                       console.log  what it said, and console.log.0 what it said before
<root>/<instance id>.base  a hard link to the image of the catalogue that it is made of: so that is in use
"""

import shutil
import uuid
from pathlib import Path
from typing import Final

from providers.contract import ProviderError

_DIRECTORY_MODE: Final = 0o711  # QEMU's own user must get through, and nobody needs to list


class Folders:
    """Blocks; safe to call from several threads for different instances."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the root; refuses one that cannot be written, now rather than at the first job."""
        self.root.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        trial = self.root / ".trial"
        trial.write_bytes(b"")
        trial.unlink()

    def of(self, instance_id: str) -> Path:
        """Where an instance's files are; the id is checked, because it becomes a path."""
        if not _is_uuid(instance_id):
            raise ProviderError(f"instance id '{instance_id}' is not a UUID in its usual form")
        return self.root / instance_id

    def make(self, instance_id: str) -> Path:
        folder = self.of(instance_id)
        folder.mkdir(mode=_DIRECTORY_MODE)
        return folder

    def hold(self, instance_id: str, base: Path) -> None:
        """Machines of any kind: an image that has a second name is not dropped."""
        link = self.of(instance_id).with_suffix(".base")
        link.unlink(missing_ok=True)
        link.hardlink_to(base)

    def remove(self, folder: Path) -> None:
        if folder.exists():
            shutil.rmtree(folder)
        folder.with_suffix(".base").unlink(missing_ok=True)

    def keep_only(self, instance_ids: set[str]) -> None:
        """Remove what a crash left of instances that LXD never had."""
        for folder in self.root.iterdir():
            if _is_uuid(folder.stem) and folder.stem not in instance_ids:
                self.remove(folder.with_suffix(""))


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
