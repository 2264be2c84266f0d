"""Reading the end of a machine's console, which virtlogd writes and rotates: console.log, older: console.log.0, .1 …"""

import os
from pathlib import Path


def tail(console: Path, limit_bytes: int) -> tuple[bytes, bool]:
    """The last bytes and whether earlier ones were left out; reads no more than the limit. No console: empty."""
    parts: list[bytes] = []
    room = limit_bytes
    for path in _newest_first(console):
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                take = min(size, room)
                file.seek(size - take)
                parts.insert(0, file.read(take))
        except FileNotFoundError:  # rotated or removed in this moment
            continue
        if take < size:
            return b"".join(parts), True
        room -= take
    return b"".join(parts), False


def _newest_first(console: Path) -> list[Path]:
    older = [path for path in console.parent.glob(f"{console.name}.*") if path.suffix[1:].isdigit()]
    return [console, *sorted(older, key=lambda path: int(path.suffix[1:]))]
