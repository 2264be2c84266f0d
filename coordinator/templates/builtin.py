"""The install templates that come with Hostler, one for each system, whatever forge its runner is of."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from coordinator.templates.language import TemplateInvalid, render

SYSTEMS = {"github": ("linux", "windows"), "gitea": ("linux",), "forgejo": ("linux",)}
"""For which forges' runners there is one, and on which systems."""

_INSTALL = {"linux": "linux.sh", "windows": "windows.ps1"}
_WRAPPERS = {"linux": "wrapper-linux.sh", "windows": "wrapper-windows.ps1"}
# What a runner's program is called in its folder, and how it is told to take one job.
_PROGRAMS = {
    "github": ("actions-runner", "run.sh"),
    "gitea": ("gitea-runner", "gitea-runner daemon --once"),
    "forgejo": ("forgejo-runner", "forgejo-runner one-job"),
}


@cache
def _text(name: str) -> str:
    return (files(__package__) / "texts" / name).read_text(encoding="utf-8")


def install_template(forge_type: str, os_type: str) -> str:
    """What is rendered for pools that name no template.

    Raises:
        TemplateInvalid: there is none for that forge and system.
    """
    if os_type not in SYSTEMS.get(forge_type, ()):
        raise TemplateInvalid(
            f"there is no install template for runners of {forge_type} on {os_type}",
            hint="write one, and name it in the pool",
        )
    return _text(_INSTALL[os_type])


def wrapper_template(os_type: str) -> str:
    """What machines get as user data: fetches the install script and runs it."""
    return _text(_WRAPPERS[os_type])


def unit_file(forge_type: str, user: str, environment: Mapping[str, str] | None = None) -> str:
    """The systemd unit of a runner's service (runner API, systemd/unit-file)."""
    folder, command = _PROGRAMS[forge_type]
    said = [_assignment(name, value) for name, value in (environment or {}).items()]
    return render(_text("runner.service"), {"user": user, "folder": folder, "command": command, "environment": said})


def _assignment(name: str, value: str) -> str:
    """Within quotes, where systemd takes backslashes, quotes and percent signs for its own."""
    for sign, meant in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        value = value.replace(sign, meant)
    return f'"{name}={value}"'
