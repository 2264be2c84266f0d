"""The tests of providers on the build server: brought there with all that they need, and run."""

import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Final

from tests.demo.places import ROOT
from tests.real.server_image import VENV, build_wheels, pins, run
from tests.real.server_vm import BuildServer

SUITE_SECONDS: Final = 1800

# What tests/providers and the conftest.py above it import, besides all that the agent needs.
_NEEDED: Final = {
    *("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "sqlalchemy", "alembic", "asyncpg"),
    *("boto3", "moto", "flask", "flask-cors"),
}
_FILES: Final = "/mnt"
_SCRIPT: Final = f"""
set -e
mount -o ro /dev/vdb {_FILES}
systemctl stop lxd.service lxd.socket
modprobe br_netfilter
cp -r {_FILES}/checkout /root/checkout
cd /root/checkout
export PYTHONPATH={_FILES}/packages
/{VENV}/bin/python -m pytest -q --durations=50 --lxd-machines -m real -k 'lxd and not container' tests/providers
"""


def pack_suite(folder: Path) -> Path:
    """An image of a file system with the tests of this checkout, and with packages that are installed here already."""
    content = folder / "files"
    (content / "checkout").mkdir(parents=True)
    wheels = folder / "wheels"
    build_wheels(wheels, "--no-build-isolation", "--no-deps", str(ROOT))
    build_wheels(wheels, "--no-build-isolation", "--constraint", str(pins(folder)), *_requirements())
    pip = (sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-index", "--no-deps")
    run(*pip, "--target", str(content / "packages"), *map(str, wheels.glob("*.whl")))
    shutil.copy(ROOT / "pyproject.toml", content / "checkout")
    shutil.copytree(ROOT / "tests", content / "checkout" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    image = folder / "files.img"
    run("/sbin/mke2fs", "-q", "-t", "ext4", "-d", str(content), str(image), "512M")
    return image


async def run_suite(server: BuildServer) -> str:
    """What pytest says of it.

    Raises:
        CommandFailed: a test failed.
    """
    return await server.run(_SCRIPT, SUITE_SECONDS)


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [one for extra in project["optional-dependencies"].values() for one in extra]
    return [one for one in named if re.split(r"[^A-Za-z0-9-]", one)[0] in _NEEDED]
