"""Keeping what virtual machines say: LXD shows it to whoever is attached, as `lxc console` is, and keeps nothing of it.

Of containers it keeps the end itself. Blocks; a thread reads each websocket.
"""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from pylxd import Client
from ws4py.client import WebSocketBaseClient

_ROTATE_BYTES: Final = 1024**2
_SIZE: Final = {"type": "console", "width": 80, "height": 24}


class Consoles:
    def __init__(self) -> None:
        self._attached: dict[str, tuple[_Stream, _Stream]] = {}
        self._lock = threading.Lock()

    def attach(self, client: Client, name: str, file: Path) -> None:
        """Append to `file` what the instance says from now on; it and one older one are kept below 1 MiB each.

        Attached already: fine. Errors are pylxd's and ws4py's own.
        """
        with self._lock:
            if name in self._attached:
                return
            file.touch(mode=0o600)
            operation = client.api.instances[name].console.post(json=_SIZE).json()["metadata"]
            secrets = operation["metadata"]["fds"]

            def stream(which: str, file: Path | None) -> _Stream:
                secret = {"secret": secrets[which], "project": client.project}
                path = f"/1.0/operations/{operation['id']}/websocket?{urlencode(secret)}"
                return _Stream(client.websocket_url, path, file, lambda: self._attached.pop(name, None))

            # Control first: LXD 5.0 crashes when a console that has none is cut off, as by the end of this process.
            control = stream("control", None)
            control.begin()
            said = stream("0", file)
            self._attached[name] = (control, said)
            said.begin()

    def close(self) -> None:
        """Let go of all of them."""
        for control, said in list(self._attached.values()):
            said.end()
            control.end()


class _Stream(WebSocketBaseClient):  # type: ignore[misc]
    def __init__(self, url: str, path: str, file: Path | None, on_end: Any) -> None:
        # LXD compares an Origin with a host that a socket does not have.
        super().__init__(url, exclude_headers=["origin"])
        self.resource = path
        self._file = file
        self._on_end = on_end

    def begin(self) -> None:
        self.connect()
        threading.Thread(target=self.run, name="lxd-console", daemon=True).start()

    def end(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # it has just ended by itself
            self.sock.shutdown(socket.SHUT_RDWR)

    def handshake_ok(self) -> None:
        """Nothing to do: `begin` runs it."""

    def received_message(self, message: Any) -> None:
        if self._file is None:
            return
        with contextlib.suppress(FileNotFoundError):  # the machine is just being deleted
            with self._file.open("ab") as file:
                file.write(bytes(message.data))
                full = file.tell() > _ROTATE_BYTES
            if full:
                self._file.replace(self._file.with_name(f"{self._file.name}.0"))

    def closed(self, _code: int, _reason: str | None = None) -> None:
        self._on_end()
