"""Just-in-time runner configurations and the runner download, as the runner's own `run.sh` takes them."""

import base64
import gzip
import hashlib
import io
import secrets
import tarfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.forge_simulator.records import DEFAULT_GROUP_ID, DEFAULT_GROUP_NAME, Repository, Runner

RUNNER_SCRIPT: Final = Path(__file__).parent / "runner.sh"
ARCHITECTURES: Final = ("x64", "arm64")


def encoded(runner: Runner, repository: Repository, web_url: str) -> str:
    """Give `encoded_jit_config`: base64 of a JSON map of file name to base64 of the file."""
    settings = {
        "agentId": runner.id,
        "agentName": runner.name,
        "poolId": DEFAULT_GROUP_ID,
        "poolName": DEFAULT_GROUP_NAME,
        "ephemeral": True,
        "serverUrl": f"{web_url}/_runner",
        "gitHubUrl": f"{web_url}/{repository.full_name}",
        "workFolder": runner.work_folder,
    }
    credentials = {"scheme": "OAuth", "data": {"token": runner.token}}
    # The real file is an RSA private key. Nothing here signs with it, so random numbers of the same shape do.
    parts = {"d": 256, "dp": 128, "dq": 128, "exponent": 3, "inverseQ": 128, "modulus": 256, "p": 128, "q": 128}
    key = {part: base64.b64encode(secrets.token_bytes(size)).decode() for part, size in parts.items()}
    files: dict[str, Any] = {".runner": settings, ".credentials": credentials, ".credentials_rsaparams": key}
    contents = {name: base64.b64encode(msgspec.json.encode(content)).decode() for name, content in files.items()}
    return base64.b64encode(msgspec.json.encode(contents)).decode()


def download_name(architecture: str) -> str:
    return f"actions-runner-linux-{architecture}.tar.gz"


@cache
def download() -> bytes:
    """Give a runner tarball that holds the stand-in as `run.sh`; the same bytes each time."""
    script = RUNNER_SCRIPT.read_bytes()
    tarball = io.BytesIO()
    with tarfile.open(fileobj=tarball, mode="w") as archive:
        entry = tarfile.TarInfo("./run.sh")
        entry.size = len(script)
        entry.mode = 0o755
        archive.addfile(entry, io.BytesIO(script))
    return gzip.compress(tarball.getvalue(), mtime=0)


@cache
def download_sha256() -> str:
    return hashlib.sha256(download()).hexdigest()
