"""With how little power machines run here, as far as libvirt tells: QEMU's user, its sandbox, a security driver."""

import re
from pathlib import Path
from typing import Final

import libvirt
import structlog

from providers.libvirt.xml import parse

_CONFIGURATION: Final = Path("/etc/libvirt/qemu.conf")
_NO_SANDBOX: Final = re.compile(r"^\s*seccomp_sandbox\s*=\s*0\b", re.MULTILINE)
_WITH_LABELS: Final = {"apparmor", "selinux"}

_log = structlog.get_logger(__name__)


def tell(conn: libvirt.virConnect) -> None:
    """Log what weakens the wall between machines and their host. Blocks."""
    for weakness in weaknesses(conn.getCapabilities(), _configuration()):
        _log.warning("machines_less_confined", what=weakness, hint=f"see {_CONFIGURATION}")


def weaknesses(capabilities: str, configuration: str) -> list[str]:
    """In words. `capabilities`: libvirt's XML; `configuration`: qemu.conf, empty where it may not be read."""
    models = {model.findtext("model") or "": model for model in parse(capabilities).iterfind("host/secmodel")}
    found = []
    dac = models.get("dac")
    users = {label.text or "" for label in dac.iterfind("baselabel")} if dac is not None else set()
    if not users:
        found.append("libvirt does not say as which user machines run")
    elif any(user.startswith("+0:") for user in users):
        found.append("machines run as root: a guest that breaks out of QEMU has the host")
    if not _WITH_LABELS & models.keys():
        found.append("neither AppArmor nor SELinux keeps one machine's QEMU from another's files")
    if _NO_SANDBOX.search(configuration):
        found.append("seccomp_sandbox is off: QEMU may use every system call")
    return found


def _configuration() -> str:
    try:
        return _CONFIGURATION.read_text()
    except OSError:
        return ""
