"""Whether a folder can be used, found out without making anything that stays."""

import errno
import os
from pathlib import Path


def nearest(folder: Path) -> Path:
    """The folder, or the nearest of those above it that there is."""
    return next(one for one in (folder, *folder.parents) if one.exists())


def why_unusable(folder: Path) -> str:
    """Why files could not be made in `folder`, or the folder itself with those above it; empty: they could."""
    try:
        there = nearest(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not there.is_dir():
        return f"{there} is not a directory"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} is a directory that this user may not write to"
    try:
        os.close(os.open(there, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))  # it never has a name
    except OSError as error:
        # Some file systems have no files without a name. Those without any space are no place for files at all.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR) or not os.statvfs(there).f_blocks:
            return f"{there}: no file can be made there: {error.strerror}"
    return ""
