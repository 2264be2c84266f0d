"""Decompression from file to file, in pieces: bounded in memory and in what may come out. Blocks."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from hostler.images import Compression
from providers.images.errors import FetchStopped, ImageTooLarge, ImageUnusable

_PIECE_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 1 << 16
_ZEROS: Final = bytes(_BLOCK_BYTES)
_MEMORY_BYTES: Final = 256 << 20  # xz -9 takes 65 MiB, zstd --ultra -22 128 MiB
_ZSTD_WINDOW_LOG: Final = 27


class _Decompressor(Protocol):
    """As of lzma and zstd: `decompress` gives at most `max_length` bytes and keeps what it has not used yet."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor of one gzip member, with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        made = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._full = len(made) == max_length
        return made

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def unpack(
    packed: Path,
    target: Path,
    compression: Compression,
    *,
    largest_bytes: int,
    stopping: Callable[[], bool],
) -> None:
    """Write what is in `packed` to `target`, with holes where there are zeros. An existing target is replaced.

    Raises:
        ImageUnusable: it is not what it is said to be, or its end is missing.
        ImageTooLarge: more than `largest_bytes` come out.
        FetchStopped: `stopping` said so.
        OSError: the target cannot be written.
    """
    make, errors = _tools(compression)
    size = 0
    with packed.open("rb") as source, target.open("wb") as sink:
        try:
            for piece in _pieces(source, make):
                size += len(piece)
                if size > largest_bytes:
                    raise ImageTooLarge(f"more than {largest_bytes} bytes come out of it when it is unpacked")
                if stopping():
                    raise FetchStopped("the agent stops")
                _write_sparse(sink, piece)
        except errors as error:
            raise ImageUnusable(f"it cannot be unpacked as {compression}: {error}") from error
        sink.truncate(size)


def _tools(compression: Compression) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What makes a decompressor, and what it raises. Loaded only when needed: an agent at rest has none of it."""
    if compression is Compression.GZ:
        return _Gzip, (zlib.error, EOFError)
    if compression is Compression.XZ:
        import lzma  # noqa: PLC0415

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES), (lzma.LZMAError, EOFError)
    try:
        from backports import zstd  # noqa: PLC0415
    except ImportError as error:
        raise ImageUnusable(
            "zstd is not among this agent's Python modules", hint="pip install 'hostler[agent]'"
        ) from error
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError, EOFError)


def _pieces(source: BinaryIO, make: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """What comes out: all members, frames or streams that the file holds, one after the other."""
    packed = source.read(_PIECE_BYTES)
    if not packed:
        raise EOFError("it is empty")
    while packed:
        member = make()
        yield member.decompress(packed, _PIECE_BYTES)
        while not member.eof:
            more = source.read(_PIECE_BYTES) if member.needs_input else b""
            if member.needs_input and not more:
                raise EOFError("its end is missing")
            yield member.decompress(more, _PIECE_BYTES)
        packed = _next_member(member.unused_data, source)


def _next_member(rest: bytes, source: BinaryIO) -> bytes:
    """What follows a member, without the zeros that writers pad with; empty at the end of the file."""
    while True:
        rest = (rest or source.read(_PIECE_BYTES)).lstrip(b"\0")
        if rest or not (rest := source.read(_PIECE_BYTES)):
            return rest


def _write_sparse(sink: BinaryIO, piece: bytes) -> None:
    view = memoryview(piece)
    for start in range(0, len(piece), _BLOCK_BYTES):
        block = view[start : start + _BLOCK_BYTES]
        if block == _ZEROS:
            sink.seek(_BLOCK_BYTES, 1)
        else:
            sink.write(block)
