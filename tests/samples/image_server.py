"""A web server of images with every bad habit, and images in every wrapping."""

import gzip
import hashlib
import lzma
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from backports import zstd

from hostler.images import Compression, ImageFormat
from providers.images.values import ImageSource

PACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZ: gzip.compress,
    Compression.XZ: lzma.compress,
    Compression.ZSTD: zstd.compress,
}


def content(size: int = 3_000_000, seed: int = 1) -> bytes:
    """Bytes that cannot be compressed, with zeros in the middle."""
    half = random.Random(seed).randbytes(size // 3)  # noqa: S311 - the same each time
    return half + bytes(size - 2 * len(half)) + half[::-1]


class ImageServer:
    """What it serves and how. Habits may be changed while it runs."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etag: str | None = '"v1"'
        self.ranges = True
        self.lengths = True
        self.cut_after: list[int] = []  # of each next answer, so many bytes; then it is whole
        self.cut_forever_at: int | None = None
        self.hold = threading.Event()  # answers wait for it after `hold_after` bytes
        self.hold_after: int | None = None
        self.holding = threading.Event()
        self.statuses: list[int] = []  # of each next answer, instead of the file
        self.redirects: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.on_answer: Callable[[], None] = lambda: None
        self.port = 0
        self.scheme = "http"

    def url(self, path: str = "/image") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def offer(
        self,
        disk: bytes,
        compression: Compression = Compression.NONE,
        image_format: ImageFormat = ImageFormat.RAW,
        path: str = "/image",
    ) -> ImageSource:
        """Serve a disk, packed, and say what the catalogue would."""
        self.files[path] = PACK[compression](disk)
        digest = hashlib.sha256(self.files[path]).hexdigest()
        return ImageSource("debian", self.url(path), digest, image_format, compression)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    habits: ImageServer

    def do_GET(self) -> None:
        habits = self.habits
        habits.asked.append((self.path, dict(self.headers)))
        habits.on_answer()
        self.close_connection = True
        if self.path in habits.redirects:
            self._begin(302, {"Location": habits.redirects[self.path], "Content-Length": "0"})
        elif habits.statuses:
            self._begin(habits.statuses.pop(0), {"Content-Length": "0"})
        elif self.path not in habits.files:
            self._begin(404, {"Content-Length": "0"})
        else:
            self._send(habits.files[self.path])

    def _send(self, whole: bytes) -> None:
        habits = self.habits
        start = self._start(len(whole))
        headers = {"ETag": habits.etag} if habits.etag else {}
        if start is None:
            self._begin(416, {"Content-Range": f"bytes */{len(whole)}", "Content-Length": "0"})
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        body = whole[start:]
        if habits.lengths:
            headers["Content-Length"] = str(len(body))
        self._begin(206 if start else 200, headers)
        self._body(body)

    def _start(self, size: int) -> int | None:
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if not asked or not self.habits.ranges or (condition and condition != self.habits.etag):
            return 0
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        return start if start < size else None

    def _body(self, body: bytes) -> None:
        habits = self.habits
        if habits.cut_after:
            self.wfile.write(body[: habits.cut_after.pop(0)])
            return
        if habits.cut_forever_at is not None:
            self.wfile.write(body[: habits.cut_forever_at])
            return
        if habits.hold_after is not None:
            self.wfile.write(body[: habits.hold_after])
            self.wfile.flush()
            habits.holding.set()
            habits.hold.wait(60)
            body = body[habits.hold_after :]
        self.wfile.write(body)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """The agent hung up: that is its right."""


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[ImageServer]:
    """`tls`: what it shows; without, it speaks plain HTTP."""
    habits = ImageServer()
    handler = type("Handler", (_Handler,), {"habits": habits})
    server = _Quiet(("127.0.0.1", 0), handler)
    habits.port = server.server_port
    if tls is not None:
        habits.scheme = "https"
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield habits
    finally:
        habits.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
