"""A PostgreSQL server of the tests' own: made from Debian's packages, on a free port, gone afterwards."""

import asyncio
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from coordinator.store.database import Database
from coordinator.store.migrate import migrate
from tests.simulation.processes import free_port

USER: Final = "hostler"
_UNPRIVILEGED: Final = "nobody"
_PATIENCE_SECONDS: Final = 60


def programs() -> Path:
    """Where Debian has the server's programs: they are in nobody's PATH. The newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise FileNotFoundError("there is no PostgreSQL server here: run tools/setup postgres")
    return found[-1].parent


class Postgres:
    """Durable as in earnest: fsync is on. It does not run as root, which it refuses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.password = secrets.token_urlsafe(12)
        self._programs = programs()
        self._server: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        as_root = os.geteuid() == 0
        with (self.directory / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                [self._programs / program, *arguments],
                user=_UNPRIVILEGED if as_root else None,
                extra_groups=[] if as_root else None,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def make(self) -> None:
        password = self.directory / "password"
        password.write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.directory, password):
                shutil.chown(path, _UNPRIVILEGED)
        arguments = ("--auth=scram-sha-256", f"--pwfile={password}", f"--username={USER}", "--encoding=UTF8")
        made = self._run("initdb", "--pgdata=data", "--locale=C.UTF-8", *arguments)
        assert made.wait(_PATIENCE_SECONDS) == 0, (self.directory / "initdb.log").read_text()

    def start(self) -> None:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "max_connections": 200,
        }
        self._server = self._run("postgres", "-D", "data", *(f"--{key}={value}" for key, value in settings.items()))
        began = time.monotonic()
        while not self._answers():
            assert self._server.poll() is None, (self.directory / "postgres.log").read_text()
            assert time.monotonic() - began < _PATIENCE_SECONDS, "PostgreSQL never answered"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it in good order, at once."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(_PATIENCE_SECONDS)
            self._server = None

    def _answers(self) -> bool:
        return self._psql("SELECT 1", check=False) == 0

    def _psql(self, statement: str, *, check: bool = True) -> int:
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "postgres")
        done = subprocess.run(
            [self._programs / "psql", "-X", "-q", *where, "-c", statement],
            env={"PGPASSWORD": self.password, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr.decode()
        return done.returncode

    def url(self, name: str, password: str = "") -> str:
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{self.port}/{name}"

    def empty(self) -> str:
        """A new database without anything in it."""
        name = f"test_{next(self._numbers)}"
        self._psql(f"CREATE DATABASE {name}")
        return self.url(name)

    def migrated(self) -> str:
        """A new database with the tables of this program."""
        name = f"test_{next(self._numbers)}"
        self._psql(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self.url(name)

    async def make_template(self) -> None:
        await asyncio.to_thread(self._psql, "CREATE DATABASE migrated")
        database = Database(self.url("migrated"))
        await migrate(database)
        await database.close()


@contextmanager
def postgres() -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="hostler-postgres-"))
    server = Postgres(directory)
    try:
        server.make()
        server.start()
        asyncio.run(server.make_template())
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)
