"""What `tools/setup` asks of pip: nothing that is built or installed may come unpinned."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Notes each call and what is in the files of requirements that it is given.
PYTHON = """\
#!/bin/sh
echo "call $*" >>"$CALLS"
while [ $# -gt 0 ]; do
  [ "$1" != -r ] || sed 's/^/  /' "$2" >>"$CALLS"
  shift
done
"""


def _executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_what_comes_as_source_is_built_with_what_is_pinned(tmp_path: Path) -> None:
    clone, calls = tmp_path / "clone", tmp_path / "calls"
    (clone / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/setup", clone / "tools/setup")
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, clone / name)
    _executable(clone / ".venv/bin/python", PYTHON)
    _executable(tmp_path / "bin/dpkg-query", "#!/bin/sh\nprintf installed\n")
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CALLS": str(calls)}
    subprocess.run([clone / "tools/setup"], check=True, capture_output=True, env=environment)

    tools, everything, ourselves = ("\n" + calls.read_text()).split("\ncall ")[1:]
    command, *required = tools.splitlines()
    assert "--require-hashes" in command
    assert [line.split("==")[0].strip() for line in required if "==" in line] == ["setuptools"]
    assert all("--hash=sha256:" in line for line in required[1:])
    assert len(required) > 1
    command, *required = everything.splitlines()
    assert {"--require-hashes", "--no-build-isolation"} <= set(command.split())
    assert [line.removeprefix("  ") for line in required] == (ROOT / "constraints.txt").read_text().splitlines()
    assert {"--no-deps", "--no-build-isolation"} <= set(ourselves.split())
