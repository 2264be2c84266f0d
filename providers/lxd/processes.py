"""Virtual machines whose QEMU has ended, by its process: of one that was killed LXD 5.0 says nothing by itself."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

_LOOKS_AFTER_SECONDS: Final = (0.0, 1.0, 5.0)  # LXD itself may be some moments behind


class Processes:
    """`ended(name)` is told on the event loop, for each some times; what LXD then says counts."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._watched: dict[str, int] = {}

    def watch(self, name: str, process: int) -> None:
        """From any thread; another process of the same name takes the place of the one before."""
        self._loop.call_soon_threadsafe(self._watch, name, process)

    def close(self) -> None:
        for name in list(self._watched):
            self._forget(name)

    def _watch(self, name: str, process: int) -> None:
        self._forget(name)
        try:
            descriptor = os.pidfd_open(process)
        except OSError:  # it has just ended
            self._tell(name)
            return
        self._watched[name] = descriptor
        self._loop.add_reader(descriptor, self._gone, name)

    def _gone(self, name: str) -> None:
        self._forget(name)
        self._tell(name)

    def _tell(self, name: str) -> None:
        for seconds in _LOOKS_AFTER_SECONDS:
            self._loop.call_later(seconds, self._ended, name)

    def _forget(self, name: str) -> None:
        descriptor = self._watched.pop(name, None)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
