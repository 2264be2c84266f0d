"""For all tests: quiet logs, a reproducible Hypothesis, and no silent skips where nothing may skip."""

import os

import pytest
from hypothesis import HealthCheck, settings

from hostler import logs

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("here", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_configure() -> None:
    logs.configure("warning")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed run: it would hide what was not tested."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if reporter and skipped and os.environ.get("CI"):
        reporter.write_line(f"{len(skipped)} tests were skipped; in CI none may be", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
