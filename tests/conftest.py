"""For all tests: quiet logs, a reproducible Hypothesis, and no silent skips where nothing may skip."""

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import structlog
from hypothesis import HealthCheck, settings

from hostler import logs
from tests.real.lxd import Daemon, daemon, import_images
from tests.real.postgres import Postgres, postgres

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("here", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_configure() -> None:
    # A cached logger keeps what it was first used with: a test's own output, closed by now, or no capture at all.
    mock.patch.object(structlog, "configure", partial(_uncached, structlog.configure)).start()
    logs.configure("warning")


def _uncached(configure: Callable[..., None], **how: Any) -> None:
    configure(**how | {"cache_logger_on_first_use": False})


@pytest.fixture(autouse=True)
def logs_are_set_up_as_before() -> Iterator[None]:
    """A program that a test runs in this process sets up logging for its own output."""
    how, handlers = structlog.get_config(), logging.root.handlers[:]
    yield
    structlog.configure(**how)
    logging.root.handlers[:] = handlers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", action="store_true", help="run the tests of the store on PostgreSQL as well")
    parser.addoption("--lxd-machines", action="store_true", help="run LXD's virtual machines as well; they need KVM")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames:
        also = ["postgresql"] if metafunc.config.getoption("--postgres") else []
        metafunc.parametrize("database_url", ["sqlite", *also], indirect=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def lxd_daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """An LXD of the tests' own, with images of containers and, where asked for, of a virtual machine."""
    machines = bool(request.config.getoption("--lxd-machines"))
    with daemon(machines=machines) as one:
        import_images(one, machines=machines)
        yield one


@pytest.fixture
def empty_database_url(database_url: str, request: pytest.FixtureRequest) -> str:
    """Of a database without tables."""
    if database_url.startswith("sqlite"):
        return database_url
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.empty()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database with the tables in it: SQLite, and where asked for PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/hostler.db"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.migrated()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed run: it would hide what was not tested."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if reporter and skipped and os.environ.get("CI"):
        reporter.write_line(f"{len(skipped)} tests were skipped; in CI none may be", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
