"""The `[[provider]]` table of the coordinator's configuration, for providers of kind `exec`."""

import os
from pathlib import Path
from typing import Literal

import msgspec

from hostler.config import check, check_key

DAY_SECONDS = 86_400


class ExecSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One provider executable. `environment`: prefixes of variables that it gets from the coordinator's environment."""

    name: str
    executable: str
    config_file: str
    kind: Literal["exec"] = "exec"
    interface_version: Literal["v0.1.0", "v0.1.1"] = "v0.1.0"
    environment: tuple[str, ...] = ()
    timeout_seconds: float = 300
    max_concurrent: int = 16
    appear_seconds: float = 60  # how long after a create has ended its instance may first be listed

    def __post_init__(self) -> None:
        check(bool(self.name), "name: must not be empty; pools name their provider by it")
        check_key("executable", lambda: _check_executable(Path(self.executable)))
        check_key("config_file", lambda: _check_file(Path(self.config_file)))
        check_key("environment", lambda: _check_prefixes(self.environment))
        check(
            0 < self.timeout_seconds <= DAY_SECONDS,
            f"timeout_seconds: {self.timeout_seconds:g} is not above 0 and at most {DAY_SECONDS}",
        )
        check(
            0 <= self.appear_seconds <= 3600,
            f"appear_seconds: {self.appear_seconds:g} is not 0 to 3600",
        )
        check(self.max_concurrent > 0, f"max_concurrent: {self.max_concurrent} is not above 0")


def _check_file(path: Path) -> None:
    check(path.is_absolute(), f"'{path}' is not an absolute path")
    check(path.exists(), f"'{path}' does not exist")
    check(path.is_file(), f"'{path}' is not a file")


def _check_executable(path: Path) -> None:
    _check_file(path)
    check(os.access(path, os.X_OK), f"'{path}' is not executable; try chmod +x")


def _check_prefixes(prefixes: tuple[str, ...]) -> None:
    for prefix in prefixes:
        check(prefix != "", "an empty prefix would pass every variable on; list the prefixes that are needed")
        check(not prefix.startswith("GARM"), f"'{prefix}': names that begin with GARM belong to the contract")
        check("=" not in prefix and "\0" not in prefix, f"'{prefix}' begins no variable's name; give names, not values")
