"""Logs: JSON lines for programs, lines for people, and in neither the values of local variables."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, structlog
from hostler import logs
logs.configure("info", json={json})
log = structlog.get_logger()
log.debug("too quiet")
log.info("it is", host="build-1")
logging.getLogger("library").warning("a library's %s", "word")
def fails(token):
    raise ValueError("it broke")
try:
    fails("planted-" + "token")
except ValueError:
    log.exception("failed")
"""


def _run(*, as_json: bool) -> list[str]:
    program = PROGRAM.replace("{json}", str(as_json))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == ""
    assert "planted-token" not in ended.stderr
    assert "too quiet" not in ended.stderr
    return ended.stderr.splitlines()


def test_programs_get_a_json_object_a_line() -> None:
    said = [json.loads(line) for line in _run(as_json=True)]
    assert [(one["event"], one["level"]) for one in said] == [
        ("it is", "info"),
        ("a library's word", "warning"),
        ("failed", "error"),
    ]
    assert said[0]["host"] == "build-1"
    assert said[0]["timestamp"].endswith("Z")
    assert "ValueError: it broke" in said[2]["exception"]


@pytest.mark.parametrize("part", ["it is", "a library's word", "ValueError: it broke"])
def test_people_get_lines(part: str) -> None:
    assert part in "\n".join(_run(as_json=False))
