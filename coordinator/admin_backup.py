"""A backup as the admin client gets it: put together on the coordinator's disk, then sent piece by piece.

Sent while it is read, a slow client would hold a moment of the database for as long as it takes.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from coordinator.store.backup import Backups, spooled
from protos.hostler.v1 import admin_pb2 as pb

_PIECE: Final = 256 * 1024


class BackupAdmin:
    def __init__(self, backups: Backups, directory: Path, key_file: Path) -> None:
        """`directory`: where there is room for it; nothing stays there."""
        self._backups = backups
        self._directory = directory
        self._key_file = key_file

    async def taken(self) -> AsyncIterator[pb.BackupPiece]:
        """
        Raises:
            NoRoom: there is none in the directory.
        """
        with spooled(self._directory) as file:
            rows = await self._backups.write(file)
            file.seek(0)
            digest, size = hashlib.sha256(), 0
            while data := await asyncio.to_thread(file.read, _PIECE):
                digest.update(data)
                size += len(data)
                yield pb.BackupPiece(data=data)
        end = pb.BackupEnd(rows=rows, bytes=size, sha256=digest.hexdigest(), key_file=str(self._key_file))
        yield pb.BackupPiece(end=end)
