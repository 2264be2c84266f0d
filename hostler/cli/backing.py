"""`hostler backup`: what the coordinator's database holds, into a file here."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Final

from cyclopts import Parameter

from hostler.cli import shape
from hostler.cli.client import DEFAULT, connected
from hostler.cli.options import Coordinator, Json
from hostler.errors import ConfigError, HostlerError
from protos.hostler.v1.admin_pb2 import BackupEnd, BackupPiece, BackupRequest

_TO_STDOUT: Final = Path("-")


class BackupCutOff(HostlerError):
    """What arrived is not what was sent."""

    code = "backup_cut_off"
    hint = "nothing was kept; ask again"


def backup(
    file: Annotated[
        Path, Parameter(name="FILE", help="Where to write it; - for standard output.", allow_leading_hyphen=True)
    ],
    /,
    *,
    json: Json = False,
    coordinator: Coordinator = DEFAULT,
) -> None:
    """Write all that the coordinator's database holds into a file, as of one moment, while it goes on serving.

    Secrets stay sealed in it: the key that opens them is in a file at the coordinator, which is to be kept apart.
    `hostler-coordinator restore` fills an empty database from it, SQLite or PostgreSQL.
    """
    with _opened(file) as opened, connected(coordinator) as admin:
        end = _written(admin.Backup(BackupRequest()), opened)
    told = shape.to_json(end) if json else _told(file, end)
    print(told, file=sys.stderr if file == _TO_STDOUT else sys.stdout)


def _written(pieces: Iterable[BackupPiece], file: IO[bytes]) -> BackupEnd:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.data)
        file.write(piece.data)
        if piece.HasField("end"):
            if digest.hexdigest() != piece.end.sha256:
                break
            return piece.end
    raise BackupCutOff("the backup did not arrive as it was sent")


def _told(file: Path, end: BackupEnd) -> str:
    name = "standard output" if file == _TO_STDOUT else file
    return (
        f"{end.rows} rows, {end.bytes / 1_000_000:.1f} MB, are in {name}\n"
        f"Keep the coordinator's {end.key_file} too, in another place: it opens the secrets in there."
    )


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Named as asked for only when it is whole, and on the disk. Never writes over a file."""
    if file == _TO_STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    fresh = file.with_name(f"{file.name}.part")
    try:
        if file.exists():
            raise ConfigError(f"{file} exists", hint="each backup needs a name of its own")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as opened:
            os.fchmod(opened.fileno(), 0o600)
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        fresh.rename(file)
        _sync_directory(file.parent)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
