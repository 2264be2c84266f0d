"""One GET over http or https: redirects bounded, no credentials, nothing of the environment. Blocks.

The standard library's client: see docs/decisions/image-fetching.md.
"""

import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from hostler import __version__
from providers.images.errors import FetchFailed, FetchRefused

MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = {301, 302, 303, 307, 308}


class BrokenOff(Exception):
    """The connection failed: another one may do."""


class Response:
    """An open answer. `close` when done."""

    def __init__(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.reason = response.reason

    def header(self, name: str) -> str:
        return self._response.headers.get(name, "")

    def read(self, most: int) -> bytes:
        """Up to `most` bytes as they come; empty at the end, also at an early one.

        Raises:
            BrokenOff: the connection failed.
        """
        try:
            return self._response.read1(most)
        except (OSError, HTTPException) as error:
            raise BrokenOff(str(error) or type(error).__name__) from error

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class Requests:
    """Makes requests until it is cut, which also ends those that wait for their server."""

    def __init__(self, *, stall_seconds: float, ca_file: Path | None = None) -> None:
        """
        Args:
            stall_seconds: how long a server may say nothing.
            ca_file: authorities (PEM) that are believed besides the system's; read for each connection.
        """
        self._stall_seconds = stall_seconds
        self._ca_file = ca_file
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._cut = False

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Follow redirects to an answer that is none.

        Raises:
            FetchRefused: the address, or where it leads, is nothing to fetch from.
            FetchFailed: it leads nowhere, or the server is not who it should be.
            BrokenOff: the connection failed.
        """
        for _ in range(MOST_REDIRECTS + 1):
            parts = _checked(url)
            response = self._ask(parts, headers)
            if response.status not in _REDIRECTS:
                return response
            target = response.header("Location")
            response.close()
            if not target:
                raise FetchFailed(f"{url} answered {response.status} without saying where to")
            url = urljoin(url, target)
            if parts.scheme == "https" and urlsplit(url).scheme != "https":
                raise FetchRefused(f"{parts.geturl()} leads to {url}, which is not encrypted")
        raise FetchFailed(f"more than {MOST_REDIRECTS} redirects, the last to {url}")

    def cut(self) -> None:
        """End all that is under way; there will be no more."""
        with self._lock:
            self._cut = True
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _ask(self, parts: SplitResult, headers: Mapping[str, str]) -> Response:
        connection = self._connection(parts)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"User-Agent": f"hostler-agent/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        try:
            connection.connect()
            self._watch(connection.sock)
            connection.request("GET", path, headers=sent | dict(headers))
            return Response(connection, connection.getresponse())
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise FetchFailed(
                f"{parts.hostname}: its certificate is not good: {error.verify_message}",
                hint="an authority of your own is named in [images] ca_file of the agent's configuration",
            ) from error
        except (OSError, HTTPException) as error:
            connection.close()
            raise BrokenOff(f"{parts.hostname}: {error or type(error).__name__}") from error

    def _connection(self, parts: SplitResult) -> HTTPConnection:
        host = parts.hostname or ""
        if parts.scheme == "http":
            return HTTPConnection(host, parts.port, timeout=self._stall_seconds)
        return HTTPSConnection(host, parts.port, timeout=self._stall_seconds, context=self._tls())

    def _tls(self) -> ssl.SSLContext:
        tls = ssl.create_default_context()
        if self._ca_file is not None:
            try:
                tls.load_verify_locations(self._ca_file)
            except OSError as error:
                raise FetchFailed(
                    f"[images] ca_file {self._ca_file} cannot be read: {error.strerror or error}"
                ) from error
        return tls

    def _watch(self, connected: socket.socket) -> None:
        with self._lock:
            self._sockets = {one for one in self._sockets if one.fileno() >= 0} | {connected}
            if self._cut:
                raise ConnectionAbortedError("the agent stops")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise FetchRefused(f"{url[:200]!r} is no http or https address")
    if "@" in parts.netloc:
        raise FetchRefused("the address holds a user, and no credentials are sent")
    return parts
