"""Network interfaces that LXD left: it takes a container's away when that ends, unless it was itself away then."""

import subprocess
from pathlib import Path
from typing import Final

from providers.contract import ProviderError

_INTERFACES: Final = Path("/sys/class/net")
_SECONDS: Final = 10


def remove(name: str) -> None:
    """Of an instance that is gone; its other end goes with it. None there: fine. Blocks.

    Raises:
        ProviderError: it is still there.
    """
    if not name or not (_INTERFACES / name).exists():
        return
    done = subprocess.run(["ip", "link", "delete", name], capture_output=True, text=True, timeout=_SECONDS, check=False)
    if (_INTERFACES / name).exists():
        raise ProviderError(f"the interface {name} of a deleted instance cannot be removed: {done.stderr.strip()}")
