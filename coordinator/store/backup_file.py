"""What a backup is written as: JSON lines, packed by gzip. `zcat` shows it, and each line can be read alone.

The first line says what it is; then for each table one line with its name and columns, and one for each row; the last
line counts the rows, and shows that nothing is missing. Binary values are base64, times as the database keeps them.
"""

import gzip
import zlib
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec

from hostler.errors import HostlerError

FORMAT: Final = 1
_LEVEL: Final = 3  # half of what is in a database is UUIDs: more effort gains little
_BEGINS: Final = b'{"hostler_backup":'
_LONGEST: Final = 256 * 1024 * 1024


class BackupUnusable(HostlerError):
    """The file is no backup, is not whole, or is of another version."""

    code = "backup_unusable"


class Header(msgspec.Struct, frozen=True):
    hostler_backup: int
    version: str  # of the Hostler that wrote it
    revision: str  # of the database's schema
    made_at: int  # microseconds since 1970
    controller_id: str


class TableBegins(msgspec.Struct, frozen=True):
    table: str
    columns: list[str]


class End(msgspec.Struct, frozen=True):
    rows: int


class Writer:
    """Packs into a file that it does not close."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._packed = gzip.GzipFile("", fileobj=file, mode="wb", compresslevel=_LEVEL, mtime=0)
        self._encoder = msgspec.json.Encoder()
        self.rows = 0
        self._line(header)

    def begin(self, table: TableBegins) -> None:
        self._line(table)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        self._packed.write(b"".join(self._encoder.encode(list(row)) + b"\n" for row in rows))
        self.rows += len(rows)

    def end(self) -> None:
        self._line(End(self.rows))
        self._packed.close()

    def _line(self, said: msgspec.Struct) -> None:
        self._packed.write(self._encoder.encode(said) + b"\n")


class Reader:
    """The header at once, the rest piece by piece."""

    def __init__(self, file: IO[bytes]) -> None:
        """
        Raises:
            BackupUnusable: it does not begin as a backup does.
        """
        self._lines = _lines(file)
        first = next(self._lines, b"")
        if not first.startswith(_BEGINS):
            raise BackupUnusable("this is no backup of Hostler")
        self.header = _decoded(first, Header)
        if self.header.hostler_backup != FORMAT:
            raise BackupUnusable(
                f"this backup is of format {self.header.hostler_backup}, which this version of Hostler does not know",
                hint=f"restore it with the version that wrote it: {self.header.version}",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._lines.close()

    def pieces(self) -> Iterator[TableBegins | list[Any]]:
        """Tables and after each its rows, in the order in which they were written.

        Raises:
            BackupUnusable: the file is cut off, or is not as it was written.
        """
        rows = 0
        for line in self._lines:
            if line.startswith(b"["):
                rows += 1
                yield _decoded(line, list)
            elif line.startswith(b'{"rows":'):
                if _decoded(line, End).rows != rows or next(self._lines, None) is not None:
                    raise broken()
                return
            else:
                yield _decoded(line, TableBegins)
        raise broken()


def _lines(file: IO[bytes]) -> Generator[bytes, None, None]:
    try:
        with gzip.GzipFile("", fileobj=file, mode="rb") as packed:
            while line := packed.readline(_LONGEST):
                yield line
    except gzip.BadGzipFile:
        raise BackupUnusable("this is no backup of Hostler, or it is damaged") from None
    except (EOFError, zlib.error):
        raise broken() from None


def _decoded(line: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError:
        raise broken() from None


def broken() -> BackupUnusable:
    return BackupUnusable("this backup is damaged or not whole", hint="was it copied to its end? take another one")
