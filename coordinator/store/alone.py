"""SQLite serves one coordinator: a lock on a file beside the database, held for as long as that lives."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.store.database import DatabaseUnusable, driver_url


class AnotherCoordinator(DatabaseUnusable):
    """Another process uses this SQLite database."""

    code = "another_coordinator"
    hint = "stop the other one first; several coordinators together need PostgreSQL: see database.url"


@contextmanager
def alone(url: str) -> Iterator[None]:
    """Hold an SQLite database for this process. The kernel lets go of it however the process ends.

    PostgreSQL is for several: nothing is held.

    Raises:
        AnotherCoordinator: somebody holds it.
        DatabaseUnusable: the lock cannot be made where the database is.
    """
    parsed = driver_url(url)
    if parsed.get_backend_name() != "sqlite":
        yield
        return
    path = Path(f"{parsed.database}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseUnusable(
            f"{path}: {error.strerror}", hint="check database.url, and that this user may write there"
        ) from error
    try:
        _lock(descriptor, str(parsed.database))
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, database: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AnotherCoordinator(f"{database}: another coordinator uses this SQLite database") from None
