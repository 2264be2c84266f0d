"""The bash provider with a directory of its own for a cloud, and with a stand-in where PATH finds QEMU."""

import base64
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from providers.contract import Arch
from providers.exec import CloudSpec, ExecSettings, Tool

ROOT: Final = Path(__file__).parents[2]
EXECUTABLE: Final = ROOT / "providers" / "qemu.bash"
STAND_IN: Final = ROOT / "tests" / "fixtures" / "qemu"
WRAPPER: Final = base64.b64encode(b"#!/bin/sh\necho hello\n").decode()


def path_with_stand_in() -> str:
    return f"{STAND_IN}:{os.environ['PATH']}"


class QemuCloud:
    """`stays` is an image; with the stand-in its machines run until they are ended."""

    def __init__(self, directory: Path) -> None:
        self.machines = directory / "machines"
        self.config = directory / "qemu.toml"
        images = directory / "images"
        images.mkdir()
        image = ["qemu-img", "create", "-q", "-f", "qcow2", str(images / "stays.qcow2"), "1M"]
        subprocess.run(image, check=True)
        self.machines.mkdir()
        self.config.write_text(
            f'directory = "{self.machines}"\nimages = "{images}"\nflavor_small = "1 256"  # MiB\naccelerator = "tcg"\n'
        )

    def settings(self, executable: Path = EXECUTABLE) -> ExecSettings:
        return ExecSettings(
            name="qemu",
            executable=str(executable),
            config_file=str(self.config),
            environment=("PATH",),
            timeout_seconds=60,
        )

    def traces(self) -> list[str]:
        """What there is of machines: directories, and processes that are or were in one."""
        found = [path.name for path in self.machines.iterdir() if path.is_dir()]
        return sorted(found + [f"process in {folder}" for folder in self.processes().values()])

    def processes(self) -> dict[int, str]:
        """The machine's name of each process. A directory that was removed is still known by its name."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                folder = (process / "cwd").readlink()
                if folder.is_relative_to(self.machines) and folder != self.machines:
                    found[int(process.name)] = folder.relative_to(self.machines).parts[0]
        return found

    def end_all(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def spec(name: str = "runner-1", **changes: Any) -> CloudSpec:
    values: dict[str, Any] = {
        "name": name,
        "tools": (Tool(os="linux", architecture="x64"),),
        "repo_url": "https://forge.example/o/r",
        "callback_url": "https://hostler.example/api/v1/callbacks",
        "metadata_url": "https://hostler.example/api/v1/metadata",
        "instance_token": "token-in-the-clear",
        "extra_specs": {"runner_install_template": WRAPPER},
        "arch": Arch.AMD64,
        "flavor": "small",
        "image": "stays",
        "pool_id": "pool-1",
    }
    return CloudSpec(**(values | changes))
